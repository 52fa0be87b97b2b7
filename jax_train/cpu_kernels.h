// What the CPU's kernels are made of: vectors of the processor's width, products in tiles of registers, threads of XLA.
//
// Decision: all products are one kind of tile, whose sums of 6 rows and of 4 (or 2) vectors stay in registers while
// rows of A and a panel of B, laid out beforehand, come from the first cache. GCC's and Clang's vectors say that once
// for every processor.

#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <type_traits>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::Result<Array>;

#if defined(__AVX512F__)
constexpr long W = 16, COLUMNS = 4;  // floats of a vector, vectors across a tile: its sums take 24 of 32 registers
#elif defined(__AVX__)
constexpr long W = 8, COLUMNS = 2;  // 12 of 16
#else
constexpr long W = 4, COLUMNS = 4;
#endif
constexpr long TILE = 6;  // rows
constexpr long PANEL = COLUMNS * W;
constexpr long DEPTH = 128;  // of a product at a time: so much of a panel stays in the first cache

typedef float Vector __attribute__((vector_size(4 * W)));
typedef int32_t Integers __attribute__((vector_size(4 * W)));
typedef float Anywhere __attribute__((vector_size(4 * W), aligned(4), may_alias));

inline Vector load(const float* from) { return *reinterpret_cast<const Anywhere*>(from); }
inline void store(float* to, Vector x) { *reinterpret_cast<Anywhere*>(to) = x; }
inline Vector all(float x) { return x - Vector{}; }
inline long rounded_up(long n, long to) { return (n + to - 1) / to * to; }

inline float largest(Vector x) {
  float found = x[0];
  for (long i = 1; i < W; ++i) found = std::max(found, x[i]);
  return found;
}

inline float sum(Vector x) {
  for (long half = W / 2; half > 0; half /= 2)
    for (long i = 0; i < half; ++i) x[i] += x[i + half];
  return x[0];
}

// e^x of x <= 0, but not below e^-87.3: the whole part of x / ln 2 goes into the exponent's bits, e to the rest is the
// polynomial of Cephes' expf. What is no number stays so.
inline Vector exponential(Vector x) {
  const Vector given = x, least = all(-87.3f), shift = all(12582912.f);  // adding 1.5 * 2^23 rounds to a whole number
  x = x > least ? x : least;
  const Vector shifted = x * 1.44269504f + shift, whole = shifted - shift;
  const Vector rest = x - whole * 0.693359375f + whole * 2.12194440e-4f;
  Vector series = all(1.9875691500e-4f);
  for (const float term : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    series = series * rest + term;
  series = series * rest * rest + rest + 1.f;
  const Vector found = (Vector)((Integers)series + ((Integers)shifted << 23));
  return given == given ? found : given;
}

// C = A B, or C += A B, for a block of rows of A. Any element of A is at a + i * a_row + d * a_step.
struct Product {
  const float* a;
  long a_row, a_step;
  const float* b;
  long b_row;
  float* c;
  long c_row;
  bool add;
};

template <long M, long N>
inline __attribute__((always_inline)) void tile(long depth, const Product& p) {
  Vector sums[M][N];
  for (long i = 0; i < M; ++i)
    for (long j = 0; j < N; ++j) sums[i][j] = p.add ? load(p.c + i * p.c_row + j * W) : Vector{};
  const float *a = p.a, *b = p.b;
  for (long d = 0; d < depth; ++d, a += p.a_step, b += p.b_row) {
    Vector right[N];
    for (long j = 0; j < N; ++j) right[j] = load(b + j * W);
    for (long i = 0; i < M; ++i)
      for (long j = 0; j < N; ++j) sums[i][j] += a[i * p.a_row] * right[j];
  }
  for (long i = 0; i < M; ++i)
    for (long j = 0; j < N; ++j) store(p.c + i * p.c_row + j * W, sums[i][j]);
}

template <long N>
void tiles(long rows, long depth, Product p) {
  for (; rows >= TILE; rows -= TILE, p.a += TILE * p.a_row, p.c += TILE * p.c_row) tile<TILE, N>(depth, p);
  if (rows == 1) tile<1, N>(depth, p);
  if (rows == 2) tile<2, N>(depth, p);
  if (rows == 3) tile<3, N>(depth, p);
  if (rows == 4) tile<4, N>(depth, p);
  if (rows == 5) tile<5, N>(depth, p);
}

// `columns` a multiple of W
void multiply(long rows, long columns, long depth, Product p) {
  for (; depth > 0; depth -= DEPTH, p.a += DEPTH * p.a_step, p.b += DEPTH * p.b_row, p.add = true) {
    const long deep = std::min(DEPTH, depth);
    for (long j = 0; j < columns; j += PANEL) {
      Product part = p;
      part.b += j, part.c += j;
      const long vectors = std::min(PANEL, columns - j) / W;
      if (vectors == COLUMNS) tiles<COLUMNS>(rows, deep, part);
      else if (vectors == 3) tiles<3>(rows, deep, part);
      else if (vectors == 2) tiles<2>(rows, deep, part);
      else tiles<1>(rows, deep, part);
    }
  }
}

// Memory for pieces of work, one after another
class Scratch {
 public:
  explicit Scratch(long floats) : memory_(new (std::align_val_t{64}) float[floats]) {}
  ~Scratch() { operator delete[](memory_, std::align_val_t{64}); }
  Scratch(const Scratch&) = delete;
  float* take(long floats) {
    float* taken = memory_ + used_;
    used_ += rounded(floats);
    return taken;
  }
  void clear() { used_ = 0; }
  static long rounded(long floats) { return rounded_up(floats, 16); }

 private:
  float* memory_;
  long used_ = 0;
};

// work(0, scratch) to work(n - 1, scratch), on the caller's thread and on those of the pool that come while there is
// any left, each with a scratch of so many floats. It waits for work that has begun alone, so that calls in all of a
// pool's threads end as well.
template <typename Work>
void in_parallel(ffi::ThreadPool& pool, long n, long floats, const Work& work) {
  struct Progress {
    std::atomic<long> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable finished;
  };
  auto progress = std::make_shared<Progress>();
  const auto take = [progress, n, floats, &work] {
    long i = progress->next++;
    if (i >= n) return;
    for (Scratch scratch(floats); i < n; i = progress->next++) {
      scratch.clear();
      work(i, scratch);
      if (++progress->done < n) continue;
      std::lock_guard<std::mutex> hold(progress->mutex);
      progress->finished.notify_all();
    }
  };
  for (long i = std::min<long>(pool.num_threads(), n) - 1; i > 0; --i)
    pool.Schedule(std::decay_t<decltype(take)>(take));
  take();
  std::unique_lock<std::mutex> hold(progress->mutex);
  progress->finished.wait(hold, [&] { return progress->done == n; });
}

}  // namespace
