// Products with matrices in float32 on a CPU, called by XLA (its foreign function interface).
//
// Decision: a block of the result by one thread, so that its sums are made in one order however many threads there are.
// What is multiplied is laid out first. By vectors: the matrix in panels, for all threads, and rows with space between
// them, as rows that lie a power of two apart fall on each other in the cache. By a matrix unit: the factor that has
// less for all threads, the other one by each for itself.
//
// M rows, K what is summed over, N columns. x: [..., K], M rows in all; w: [K, N], or [N, K] where it is transposed.
// With x transposed, which takes a matrix unit, x: [..., M], K rows in all.

#include <cstring>

#include "cpu_kernels.h"
#include "cpu_matrix_unit.h"

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

// x w, or x times w transposed, by vectors
void by_vectors(ffi::ThreadPool& pool, bool transposed, const float* x, const float* w, float* y, long M, long K,
                long N) {
  const long panels = (N + PANEL - 1) / PANEL, apart = K + APART;
  Scratch laid_out(panels * K * PANEL);
  float* right = laid_out.take(panels * K * PANEL);
  in_parallel(pool, panels, 0, [&](long j, Scratch&) {
    lay_out(right + j * K * PANEL, w, j, K, N, transposed);
  });
  const long floats = Scratch::rounded(ROWS * apart) + ROWS * PANEL;
  in_parallel(pool, (M + ROWS - 1) / ROWS, floats, [&](long block, Scratch& scratch) {
    const long first = block * ROWS, rows = std::min(ROWS, M - first);
    float *left = scratch.take(ROWS * apart), *sums = scratch.take(ROWS * PANEL);
    for (long i = 0; i < rows; ++i)
      std::memcpy(left + i * apart, x + (first + i) * K, K * sizeof(float));
    for (long j = 0; j < panels; ++j) {
      multiply(rows, PANEL, K, {left, apart, 1, right + j * K * PANEL, PANEL, sums, PANEL, false});
      const long columns = std::min(PANEL, N - j * PANEL);
      for (long i = 0; i < rows; ++i)
        std::memcpy(y + (first + i) * N + j * PANEL, sums + i * PANEL, columns * sizeof(float));
    }
  });
}

#if HAS_MATRIX_UNIT

constexpr long OWN = 128;     // at most so many rows (or columns) of the factor that a thread lays out for itself,
constexpr long SLAB = 512;    // so deep at a time: both stay in the second cache
constexpr long SPAN = 4096;   // so deep the other factor is laid out at a time, for all threads

// A block of sums into y, or to what is there
void place(float* y, long y_row, const float* sums, long rows, long columns, bool add) {
  for (long i = 0; i < rows; ++i, y += y_row, sums += BOTH)
    for (long j = 0; j < columns; ++j) y[j] = add ? y[j] + sums[j] : sums[j];
}

// Factor `left` times factor `right`
void by_matrix_unit(ffi::ThreadPool& pool, const Factor& left, const Factor& right, float* y) {
  const bool own_left = left.n >= right.n;
  const Factor &own = own_left ? left : right, &shared = own_left ? right : left;
  const long threads = pool.num_threads(), N = right.n, shared_edges = rounded_up(shared.n, BOTH) / EDGE;
  const long block = std::clamp(rounded_up(own.n / (4 * threads), BOTH), BOTH, OWN);
  const long span_tiles = rounded_up(std::min(SPAN, own.depth), DEEP) / DEEP, slab_tiles = SLAB / DEEP;
  Scratch laid_out(shared_edges * span_tiles * SPLIT);
  Split* all = reinterpret_cast<Split*>(laid_out.take(shared_edges * span_tiles * SPLIT));
  for (long span = 0; span < own.depth; span += SPAN) {
    const long tiles = rounded_up(std::min(SPAN, own.depth - span), DEEP) / DEEP;
    in_parallel(pool, tiles, 0, [&](long d, Scratch&) {
      for (long i = 0; i < shared_edges; ++i)
        lay_out(all[i * span_tiles + d], shared, i * EDGE, span + d * DEEP, own_left);
    });
    const long floats = block / EDGE * slab_tiles * SPLIT + BOTH * BOTH;
    in_parallel(pool, (own.n + block - 1) / block, floats, [&](long number, Scratch& scratch) {
      const Tiles in_use;
      Split* mine = reinterpret_cast<Split*>(scratch.take(block / EDGE * slab_tiles * SPLIT));
      float* sums = scratch.take(BOTH * BOTH);
      const long first = number * block, rows = std::min(block, own.n - first), edges = rounded_up(rows, BOTH) / EDGE;
      for (long d = 0; d < tiles; d += slab_tiles) {
        const long deep = std::min(slab_tiles, tiles - d), depth = span + d * DEEP;
        const bool along = own.deeper == 1;
        for (long a = 0; a < (along ? edges : deep); ++a)
          for (long b = 0; b < (along ? deep : edges); ++b) {
            const long i = along ? a : b, k = along ? b : a;
            lay_out(mine[i * slab_tiles + k], own, first + i * EDGE, depth + k * DEEP, !own_left);
          }
        for (long j = 0; j < shared_edges; j += 2)
          for (long i = 0; i < edges; i += 2) {
            const Split *a = mine + i * slab_tiles, *b = all + j * span_tiles + d;
            const long of_own = first + i * EDGE, of_shared = j * EDGE;
            const long y_row = own_left ? of_own : of_shared, column = own_left ? of_shared : of_own;
            float* to = y + y_row * N + column;
            const long height = std::min(BOTH, left.n - y_row), width = std::min(BOTH, N - column);
            for (long k = 0; k < height; ++k) __builtin_prefetch(to + k * N, 1), __builtin_prefetch(to + k * N + W, 1);
            const bool whole = height == BOTH && width == BOTH && depth == 0;
            float* into = whole ? to : sums;
            const long row = whole ? N : BOTH;
            if (own_left) multiply(a, a + slab_tiles, b, b + span_tiles, deep, into, row);
            else multiply(b, b + span_tiles, a, a + slab_tiles, deep, into, row);
            if (!whole) place(to, N, sums, height, width, depth > 0);
          }
      }
    });
  }
}

#endif

ffi::Error product(ffi::ThreadPool pool, bool x_transposed, bool w_transposed, Array x, Array w, Result y) {
  const long last = x.dimensions().back(), others = x.element_count() / last;
  const long M = x_transposed ? last : others, K = x_transposed ? others : last, N = w.element_count() / K;
  const float *from = x.typed_data(), *matrix = w.typed_data();
  float* to = y->typed_data();
  if (M < ROWS && N % W == 0 && !w_transposed && !x_transposed) {
    in_parallel(pool, (N + STRIP - 1) / STRIP, 0, [&](long i, Scratch&) {
      few_rows(from, matrix, to, i * STRIP, M, K, N);
    });
    return ffi::Error::Success();
  }
#if HAS_MATRIX_UNIT
  if (has_matrix_unit()) {
    const Factor left{from, M, K, x_transposed ? 1 : K, x_transposed ? M : 1};
    by_matrix_unit(pool, left, {matrix, N, K, w_transposed ? K : 1, w_transposed ? 1 : N}, to);
    return ffi::Error::Success();
  }
#endif
  if (x_transposed) return ffi::Error::InvalidArgument("a transposed product takes a matrix unit");
  by_vectors(pool, w_transposed, from, matrix, to, M, K, N);
  return ffi::Error::Success();
}

}  // namespace

// Whether products go by a matrix unit
extern "C" bool matrix_unit() {
#if HAS_MATRIX_UNIT
  return has_matrix_unit();
#else
  return false;
#endif
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(matrix_product, product,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Attr<bool>("x_transposed")
                                  .Attr<bool>("w_transposed").Arg<Array>().Arg<Array>().Ret<Array>());
