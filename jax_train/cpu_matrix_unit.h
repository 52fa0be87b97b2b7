// Float32 products by a processor's matrix unit (Intel's AMX), which multiplies bfloat16 and adds up in float32.
//
// Decision: a float32 is the exact sum of three bfloat16, eight of its 24 bits each. Of the nine products of two such
// sums the six largest are added up; the others are less than a float32's rounding. So results are as exact as those
// of float32 arithmetic (tests/test_cpu_products.py), but what is infinite makes what is no number, and what is below
// 2^-110 loses bits.

#pragma once

#include "cpu_kernels.h"

// The same macros by GCC's names and by those of Clang 14
#if defined(__linux__) && defined(__AVX512F__) && \
    (defined(__AMX_TILE__) && defined(__AMX_BF16__) || defined(__AMXTILE__) && defined(__AMXBF16__))

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HAS_MATRIX_UNIT 1

namespace {

constexpr long EDGE = 16, DEEP = 32;  // rows (or columns) of a tile of the unit, and how much of their sums it covers
constexpr long BOTH = 2 * EDGE;       // rows and columns that are multiplied at a time

typedef uint32_t Pairs __attribute__((vector_size(64), may_alias));  // 16 times two bfloat16, the second's bits above

// Rows (or columns) of a factor, and how deep sums are. Element (i, d) is at[i * next + d * deeper]; one of both is 1.
struct Factor {
  const float* at;
  long n, depth, next, deeper;
};

// A tile of a factor as its three parts, the largest first. Left: a row of a tile is a row of the factor, in pairs by
// depth; right: a row is a pair by depth, of all columns.
struct Split {
  Pairs parts[3][EDGE];
};
constexpr long SPLIT = sizeof(Split) / sizeof(float);

// Whether the system lets this process use the unit
inline bool has_matrix_unit() {
  constexpr long ASK_FOR = 0x1023, TILES = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool has = syscall(SYS_arch_prctl, ASK_FOR, TILES) == 0;
  return has;
}

// The unit's tiles, all of them 16 rows of 64 bytes, while this exists
class Tiles {
 public:
  Tiles() {
    static const Configuration same;
    _tile_loadconfig(&same);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;

 private:
  struct alignas(64) Configuration {
    uint8_t palette = 1, start = 0, none[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };
};

// Of the 32 lanes of two vectors those with these numbers
inline Pairs from_two(Pairs a, Pairs b, Pairs lanes) {
  return (Pairs)_mm512_permutex2var_epi32((__m512i)a, (__m512i)lanes, (__m512i)b);
}

// Swaps rows and columns: of blocks of 2 `half` each way the two that are off the diagonal
template <long half>
inline void swap_blocks(Pairs* rows) {
  constexpr uint32_t h = half;
  Pairs lane, first, second;
  for (uint32_t l = 0; l < EDGE; ++l) lane[l] = l;
  first = (lane & h) == 0 ? lane : lane + EDGE - h, second = first + h;
  for (long i = 0; i < EDGE; ++i) {
    if (i & half) continue;
    const Pairs a = rows[i], b = rows[i + half];
    rows[i] = from_two(a, b, first), rows[i + half] = from_two(a, b, second);
  }
}

inline void transpose(Pairs* rows) {
  swap_blocks<8>(rows), swap_blocks<4>(rows), swap_blocks<2>(rows), swap_blocks<1>(rows);
}

// 16 rows of a factor, 32 deep, zeros behind its last
inline void lay_out(Split& to, const Factor& factor, long first, long depth, bool right) {
  constexpr uint32_t HIGH = 0xffff0000;
  constexpr long AHEAD = 64;  // what comes after the next tiles is on its way
  const bool along = factor.deeper == 1;
  const float* from = factor.at + first * factor.next + depth * factor.deeper;
  long apart = along ? factor.next : factor.deeper;
  const long n = std::clamp(factor.n - first, 0L, EDGE), deep = std::min(DEEP, factor.depth - depth);
  float padded[EDGE * DEEP];
  if (n < EDGE || deep < DEEP) {
    std::fill(padded, padded + EDGE * DEEP, 0.f);
    const long rows = along ? n : deep, columns = along ? deep : n, new_apart = along ? DEEP : EDGE;
    for (long i = 0; i < rows; ++i) std::copy(from + i * apart, from + i * apart + columns, padded + i * new_apart);
    from = padded, apart = new_apart;
  }
  for (long i = 0; i < EDGE; ++i) {
    Vector even, odd;
    if (along) {
      const float* row = from + i * apart;
      __builtin_prefetch(row + AHEAD), __builtin_prefetch(row + AHEAD + W);
      const Pairs a = (Pairs)load(row), b = (Pairs)load(row + W);
      even = (Vector)from_two(a, b, Pairs{0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30});
      odd = (Vector)from_two(a, b, Pairs{1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31});
    } else {
      const float *row = from + 2 * i * apart, *next = row + apart;
      __builtin_prefetch(row + AHEAD), __builtin_prefetch(next + AHEAD);
      even = load(row), odd = load(next);
    }
    for (auto& part : to.parts) {
      const Pairs low = (Pairs)even & HIGH, high = (Pairs)odd & HIGH;
      part[i] = low >> 16 | high;
      even -= (Vector)low, odd -= (Vector)high;
    }
  }
  if (along == right)
    for (auto& part : to.parts) transpose(part);
}

// Sums, in 32 rows of 32, of products of 32 rows and 32 columns, each as two series of tiles, 32 deep each
inline void multiply(const Split* upper, const Split* lower, const Split* left, const Split* right, long tiles,
                     float* sums, long sums_row) {
  asm volatile("" ::: "memory");  // what was laid out lies there: GCC is not told that tiles are read from memory
  const auto rows = [&](long part) {
    _tile_loadd(4, upper->parts[part], 64);
    _tile_loadd(5, lower->parts[part], 64);
  };
  const auto columns = [&](long part) {
    _tile_loadd(6, left->parts[part], 64);
    _tile_loadd(7, right->parts[part], 64);
  };
  const auto add = [] {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
  };
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (; tiles > 0; --tiles, ++upper, ++lower, ++left, ++right) {
    rows(2), columns(0), add();
    rows(1), add();
    columns(1), add();
    rows(0), add();
    columns(2), add();
    columns(0), add();
  }
  const long row = sums_row * sizeof(float);
  _tile_stored(0, sums, row);
  _tile_stored(1, sums + EDGE, row);
  _tile_stored(2, sums + EDGE * sums_row, row);
  _tile_stored(3, sums + EDGE * sums_row + EDGE, row);
}

}  // namespace

#endif
