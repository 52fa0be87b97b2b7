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

inline long pieces(long n, long of) { return (n + of - 1) / of; }

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
  const long panels = pieces(N, PANEL), apart = K + APART;
  Scratch laid_out(panels * K * PANEL);
  float* right = laid_out.take(panels * K * PANEL);
  in_parallel(pool, panels, 0, [&](long j, Scratch&) {
    lay_out(right + j * K * PANEL, w, j, K, N, transposed);
  });
  const long floats = Scratch::rounded(ROWS * apart) + ROWS * PANEL;
  in_parallel(pool, pieces(M, ROWS), floats, [&](long block, Scratch& scratch) {
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

constexpr long OWN = 128;    // at most so many rows (or columns) of the factor that a thread lays out for itself,
constexpr long SLAB = 512;   // so deep at a time: both stay in the second cache
constexpr long SPAN = 4096;  // so deep the other factor is laid out at a time, for all threads

// Tiles of a factor, that of 16 rows i and of depth k at `at[i * step + k]`
struct Laid {
  Split* at;
  long step;
  Laid from(long i, long k) const { return {at + i * step + k, step}; }
};

// 32 rows of y, 32 wide or less at the borders, as sums of what is `deep` tiles deep, or with them added
void block_of_sums(float* y, long y_row, long height, long width, const Laid& left, const Laid& right, long deep,
                   bool add, float* sums) {
  for (long i = 0; i < height; ++i) __builtin_prefetch(y + i * y_row, 1), __builtin_prefetch(y + i * y_row + W, 1);
  const bool whole = height == BOTH && width == BOTH && !add;
  multiply(left.at, left.at + left.step, right.at, right.at + right.step, deep, whole ? y : sums, whole ? y_row : BOTH);
  if (whole) return;
  for (long i = 0; i < height; ++i, y += y_row, sums += BOTH)
    for (long j = 0; j < width; ++j) y[j] = add ? y[j] + sums[j] : sums[j];
}

// A factor's tiles from `first` and `depth` on, in the order in which it lies in memory
void lay_out_slab(const Laid& to, const Factor& factor, long first, long depth, long edges, long deep, bool right) {
  const bool along = factor.deeper == 1;
  for (long a = 0; a < (along ? edges : deep); ++a)
    for (long b = 0; b < (along ? deep : edges); ++b) {
      const long i = along ? a : b, k = along ? b : a;
      lay_out(to.at[i * to.step + k], factor, first + i * EDGE, depth + k * DEEP, right);
    }
}

// Factor `left` times factor `right`
void by_matrix_unit(ffi::ThreadPool& pool, const Factor& left, const Factor& right, float* y) {
  const bool own_left = left.n >= right.n;
  const Factor &own = own_left ? left : right, &shared = own_left ? right : left;
  const long N = right.n, shared_edges = rounded_up(shared.n, BOTH) / EDGE;
  const long block = std::clamp(rounded_up(own.n / (4 * pool.num_threads()), BOTH), BOTH, OWN);
  const long all_floats = shared_edges * pieces(std::min(SPAN, own.depth), DEEP) * SPLIT;
  const long mine_floats = block / EDGE * (SLAB / DEEP) * SPLIT;
  Scratch for_all(all_floats);
  const Laid all{reinterpret_cast<Split*>(for_all.take(all_floats)), pieces(std::min(SPAN, own.depth), DEEP)};
  for (long span = 0; span < own.depth; span += SPAN) {
    const long span_tiles = pieces(std::min(SPAN, own.depth - span), DEEP);
    in_parallel(pool, span_tiles, 0, [&](long k, Scratch&) {
      lay_out_slab(all.from(0, k), shared, 0, span + k * DEEP, shared_edges, 1, own_left);
    });
    in_parallel(pool, pieces(own.n, block), mine_floats + BOTH * BOTH, [&](long number, Scratch& scratch) {
      const Tiles in_use;
      const Laid mine{reinterpret_cast<Split*>(scratch.take(mine_floats)), SLAB / DEEP};
      float* sums = scratch.take(BOTH * BOTH);
      const long first = number * block, edges = rounded_up(std::min(block, own.n - first), BOTH) / EDGE;
      for (long k = 0; k < span_tiles; k += SLAB / DEEP) {
        const long deep = std::min(SLAB / DEEP, span_tiles - k), depth = span + k * DEEP;
        lay_out_slab(mine, own, first, depth, edges, deep, !own_left);
        for (long j = 0; j < shared_edges; j += 2)
          for (long i = 0; i < edges; i += 2) {
            const Laid a = mine.from(i, 0), b = all.from(j, k);
            const long of_own = first + i * EDGE, of_shared = j * EDGE;
            const long row = own_left ? of_own : of_shared, column = own_left ? of_shared : of_own;
            block_of_sums(y + row * N + column, N, std::min(BOTH, left.n - row), std::min(BOTH, N - column),
                          own_left ? a : b, own_left ? b : a, deep, depth > 0, sums);
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
    in_parallel(pool, pieces(N, STRIP), 0, [&](long i, Scratch&) {
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
