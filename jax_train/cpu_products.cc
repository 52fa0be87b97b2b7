// Products with matrices in float32 on a CPU, called by XLA (its foreign function interface).
//
// Decision: a block of rows of the result by one thread, so that its sums are made in one order however many threads
// there are. What is multiplied is laid out first: the matrix in panels, for all threads, and rows with space between
// them, as rows that lie a power of two apart fall on each other in the cache.
//
// M rows, K what is summed over, N columns. x: [..., K], M rows in all; w: [K, N], or [N, K] where it is transposed.

#include <cstring>

#include "cpu_kernels.h"

namespace {

constexpr long ROWS = 120;   // of a block of x,
constexpr long APART = 16;   // and floats between them; of fewer rows w is read as it lies, once:
constexpr long STRIP = 128;  // so many of its columns by one thread,
constexpr long STEP = 32;    // so many of its rows at a time
constexpr long LINE = 16;    // floats of a line of the cache

// Panel `j` of w, [K][PANEL], zeros behind its last column
void lay_out(float* to, const float* w, long j, long K, long N, bool transposed) {
  const long first = j * PANEL, columns = std::min(PANEL, N - first);
  if (columns < PANEL) std::fill(to, to + K * PANEL, 0.f);
  if (transposed) {
    for (long n = 0; n < columns; ++n)
      for (long k = 0; k < K; ++k) to[k * PANEL + n] = w[(first + n) * K + k];
  } else {
    for (long k = 0; k < K; ++k) std::memcpy(to + k * PANEL, w + k * N + first, columns * sizeof(float));
  }
}

// x w of a few rows, the strip of columns from `first` on: each step of its rows is on its way while the last is used
void few_rows(const float* x, const float* w, float* y, long first, long M, long K, long N) {
  const long columns = std::min(STRIP, N - first);
  for (long k = 0; k < K; k += STEP) {
    const long deep = std::min(STEP, K - k);
    for (long next = k + STEP; next < std::min(k + 2 * STEP, K); ++next)
      for (long n = 0; n < columns; n += LINE) __builtin_prefetch(w + next * N + first + n);
    multiply(M, columns, deep, {x + k, K, 1, w + k * N + first, N, y + first, N, k > 0});
  }
}

// x w, or x times w transposed
ffi::Error product(ffi::ThreadPool pool, bool transposed, Array x, Array w, Result y) {
  const long K = x.dimensions().back(), M = x.element_count() / K, N = w.element_count() / K;
  if (M < ROWS && N % W == 0 && !transposed) {
    in_parallel(pool, (N + STRIP - 1) / STRIP, 0, [&](long i, Scratch&) {
      few_rows(x.typed_data(), w.typed_data(), y->typed_data(), i * STRIP, M, K, N);
    });
    return ffi::Error::Success();
  }
  const long panels = (N + PANEL - 1) / PANEL, apart = K + APART;
  Scratch laid_out(panels * K * PANEL);
  float* right = laid_out.take(panels * K * PANEL);
  in_parallel(pool, panels, 0, [&](long j, Scratch&) {
    lay_out(right + j * K * PANEL, w.typed_data(), j, K, N, transposed);
  });
  const long floats = Scratch::rounded(ROWS * apart) + ROWS * PANEL;
  in_parallel(pool, (M + ROWS - 1) / ROWS, floats, [&](long block, Scratch& scratch) {
    const long first = block * ROWS, rows = std::min(ROWS, M - first);
    float *left = scratch.take(ROWS * apart), *sums = scratch.take(ROWS * PANEL);
    for (long i = 0; i < rows; ++i)
      std::memcpy(left + i * apart, x.typed_data() + (first + i) * K, K * sizeof(float));
    for (long j = 0; j < panels; ++j) {
      multiply(rows, PANEL, K, {left, apart, 1, right + j * K * PANEL, PANEL, sums, PANEL, false});
      const long columns = std::min(PANEL, N - j * PANEL);
      for (long i = 0; i < rows; ++i)
        std::memcpy(y->typed_data() + (first + i) * N + j * PANEL, sums + i * PANEL, columns * sizeof(float));
    }
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(matrix_product, product,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Attr<bool>("transposed")
                                  .Arg<Array>().Arg<Array>().Ret<Array>());
