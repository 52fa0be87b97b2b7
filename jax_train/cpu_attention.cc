// Softmax attention in float32 on a CPU, forward and backward, called by XLA (its foreign function interface).
//
// Decision: a head of a row at a time, each by one thread, so that its sums are made in one order however many threads
// there are. Scores exist for a block of queries alone and stay in the cache (arXiv 2205.14135).
//
// B batch, L query positions, S key positions, H heads, K head size. q, out: [B, L, H, K]; k, v: [B, S, H, K];
// log_count: [S], or [0] for none; log_total: [B, H, L, 1], the logarithm of the softmax's denominator.

#include <cmath>

#include "cpu_kernels.h"

namespace {

constexpr long FEW = 8;            // queries for which nothing is laid out
constexpr long QUERIES = 30;       // of a block forward,
constexpr long BACK_QUERIES = 60;  // and backward, where
constexpr long KEYS = 256;         // so many keys are taken at a time

struct Sizes {
  long B, L, S, H, K;
  long row() const { return H * K; }             // from a position to the next of the same head
  long width() const { return rounded_up(S, PANEL); }  // of a row of scores
};

// n positions of one head, one after another, times a factor
void gather(float* to, const float* from, long n, const Sizes& s, float factor = 1.f) {
  for (long i = 0; i < n; ++i, from += s.row(), to += s.K)
    for (long j = 0; j < s.K; j += W) store(to + j, load(from + j) * factor);
}

void scatter(float* to, const float* from, long n, const Sizes& s, float factor = 1.f) {
  for (long i = 0; i < n; ++i, to += s.row(), from += s.K)
    for (long j = 0; j < s.K; j += W) store(to + j, load(from + j) * factor);
}

// All S positions of one head as panels [K][PANEL], with zeros behind the last
void lay_out(float* to, const float* from, const Sizes& s) {
  for (long first = 0; first < s.S; first += PANEL, to += s.K * PANEL)
    for (long j = 0; j < PANEL; ++j)
      for (long k = 0; k < s.K; ++k) to[k * PANEL + j] = first + j < s.S ? from[(first + j) * s.row() + k] : 0.f;
}

// Products of `rows` queries with `keys` keys, up to a whole panel
void scores(float* to, long to_row, const float* queries, const float* panels, long rows, long keys, long K) {
  for (long j = 0; j < keys; j += PANEL)
    multiply(rows, PANEL, K, {queries, K, 1, panels + j * K, PANEL, to + j, to_row, false});
}

// Scores of one query to e^(score - largest), zeros behind the first n; the logarithm of their sum before that
float softmax(float* row, long n, long width, const float* log_count, float* total) {
  if (log_count)
    for (long j = 0; j < n; ++j) row[j] += log_count[j];
  std::fill(row + n, row + width, -INFINITY);
  Vector most = load(row);
  for (long j = W; j < width; j += W) most = load(row + j) > most ? load(row + j) : most;
  const float highest = largest(most);
  Vector sums{};
  for (long j = 0; j < width; j += W) {
    const Vector weights = exponential(load(row + j) - highest);
    store(row + j, weights);
    sums += weights;
  }
  std::fill(row + n, row + width, 0.f);
  *total = sum(sums);
  return highest + std::log(*total);
}

long floats_forward(const Sizes& s) {
  return s.width() * s.K + Scratch::rounded(s.S * s.K) + QUERIES * (s.width() + 2 * s.K);
}

void head_forward(const Sizes& s, Scratch& scratch, bool causal, const float* q, const float* k, const float* v,
                  const float* log_count, float* out, float* log_total) {
  const long width = s.width();
  const float scale = 1.f / std::sqrt(static_cast<float>(s.K));
  float *keys = scratch.take(width * s.K), *values = scratch.take(s.S * s.K), *weights = scratch.take(QUERIES * width);
  float *queries = scratch.take(QUERIES * s.K), *sums = scratch.take(QUERIES * s.K);
  lay_out(keys, k, s);
  gather(values, v, s.S, s);
  for (long first = 0; first < s.L; first += QUERIES) {
    const long rows = std::min(QUERIES, s.L - first), seen = causal ? std::min(first + rows, s.S) : s.S;
    gather(queries, q + first * s.row(), rows, s, scale);
    scores(weights, width, queries, keys, rows, seen, s.K);
    float totals[QUERIES];
    for (long i = 0; i < rows; ++i) {
      const long n = causal ? std::min(first + i + 1, s.S) : s.S;
      log_total[first + i] = softmax(weights + i * width, n, rounded_up(seen, W), log_count, totals + i);
    }
    multiply(rows, s.K, seen, {weights, width, 1, values, s.K, sums, s.K, false});
    for (long i = 0; i < rows; ++i) scatter(out + (first + i) * s.row(), sums + i * s.K, 1, s, 1.f / totals[i]);
  }
}

long floats_few(const Sizes& s) { return s.L * s.H * (Scratch::rounded(s.S) + 2 * Scratch::rounded(s.K)); }

// Attention of the few queries of a row to all its heads at once: keys and values are read as they lie, each once.
void row_forward(const Sizes& s, Scratch& scratch, const float* q, const float* k, const float* v,
                 const float* log_count, float* out, float* log_total) {
  constexpr long AT_ONCE = 8, AHEAD = 4, LINE = 16;  // positions, positions, floats of a line of the cache
  const long width = Scratch::rounded(s.S), of_all = s.L * s.H;
  const float scale = 1.f / std::sqrt(static_cast<float>(s.K));
  float *weights = scratch.take(of_all * width), *queries = scratch.take(of_all * s.K);
  float* sums = scratch.take(of_all * s.K);
  for (long i = 0; i < of_all * s.K; i += W) store(queries + i, load(q + i) * scale), store(sums + i, Vector{});
  for (long j = 0; j < s.S; ++j)
    for (long l = 0, i = 0; l < s.L; ++l)
      for (long h = 0; h < s.H; ++h, ++i) {
        const float *query = queries + i * s.K, *key = k + j * s.row() + h * s.K;
        for (long c = 0; c < s.K; c += LINE) __builtin_prefetch(key + AHEAD * s.row() + c);
        Vector product{};
        for (long c = 0; c < s.K; c += W) product += load(query + c) * load(key + c);
        weights[i * width + j] = sum(product);
      }
  for (long i = 0; i < of_all; ++i) {
    float *row = weights + i * width, total;
    log_total[i % s.H * s.L + i / s.H] = softmax(row, s.S, rounded_up(s.S, W), log_count, &total);
    for (long j = 0; j < s.S; ++j) row[j] /= total;
  }
  for (long first = 0; first < s.S; first += AT_ONCE)
    for (long l = 0, i = 0; l < s.L; ++l)
      for (long h = 0; h < s.H; ++h, ++i) {
        const float *row = weights + i * width, *values = v + h * s.K;
        const long end = std::min(first + AT_ONCE, s.S);
        for (long c = 0; c < s.K; c += W) {
          Vector more = load(sums + i * s.K + c);
          for (long j = first; j < end; ++j) __builtin_prefetch(values + (j + AT_ONCE) * s.row() + c);
          for (long j = first; j < end; ++j) more += row[j] * load(values + j * s.row() + c);
          store(sums + i * s.K + c, more);
        }
      }
  std::copy(sums, sums + of_all * s.K, out);
}

// Scores and gradients of weights of one query to weights and gradients of scores, zeros behind the first n
void softmax_backward(float* row, float* grad, long n, long width, float log_total, float grad_out) {
  for (long j = 0; j < width; j += W) {
    const Vector weights = exponential(load(row + j) - log_total);
    store(row + j, weights);
    store(grad + j, weights * (load(grad + j) - grad_out));
  }
  if (n < width) std::fill(row + n, row + width, 0.f), std::fill(grad + n, grad + width, 0.f);
}

long floats_backward(const Sizes& s) {
  return 2 * s.width() * s.K + 3 * Scratch::rounded(s.S * s.K) + BACK_QUERIES * (2 * KEYS + 3 * s.K);
}

void head_backward(const Sizes& s, Scratch& scratch, bool causal, const float* q, const float* k, const float* v,
                   const float* out, const float* grad, const float* log_total, float* grad_q, float* grad_k,
                   float* grad_v) {
  const long width = s.width(), all_keys = s.S * s.K;
  const float scale = 1.f / std::sqrt(static_cast<float>(s.K));
  float *keys = scratch.take(width * s.K), *values = scratch.take(width * s.K), *key_rows = scratch.take(all_keys);
  float *key_sums = scratch.take(all_keys), *value_sums = scratch.take(all_keys);
  float *weights = scratch.take(BACK_QUERIES * KEYS), *grads = scratch.take(BACK_QUERIES * KEYS);
  float *queries = scratch.take(BACK_QUERIES * s.K), *outs = scratch.take(BACK_QUERIES * s.K);
  float* query_sums = scratch.take(BACK_QUERIES * s.K);
  lay_out(keys, k, s);
  lay_out(values, v, s);
  gather(key_rows, k, s.S, s);
  std::fill(key_sums, key_sums + s.S * s.K, 0.f);
  std::fill(value_sums, value_sums + s.S * s.K, 0.f);
  for (long first = 0; first < s.L; first += BACK_QUERIES) {
    const long rows = std::min(BACK_QUERIES, s.L - first), seen = causal ? std::min(first + rows, s.S) : s.S;
    gather(queries, q + first * s.row(), rows, s, scale);
    gather(outs, grad + first * s.row(), rows, s);
    float grad_out[BACK_QUERIES];  // each query's output times its gradient
    for (long i = 0; i < rows; ++i) {
      Vector total{};
      for (long j = 0; j < s.K; j += W) total += load(outs + i * s.K + j) * load(out + (first + i) * s.row() + j);
      grad_out[i] = sum(total);
    }
    std::fill(query_sums, query_sums + rows * s.K, 0.f);
    for (long key = 0; key < seen; key += KEYS) {
      const long n = std::min(KEYS, seen - key);
      scores(weights, KEYS, queries, keys + key * s.K, rows, n, s.K);
      scores(grads, KEYS, outs, values + key * s.K, rows, n, s.K);
      for (long i = 0; i < rows; ++i) {
        const long visible = causal ? std::clamp(first + i + 1 - key, 0L, n) : n;
        softmax_backward(weights + i * KEYS, grads + i * KEYS, visible, rounded_up(n, W), log_total[first + i],
                         grad_out[i]);
      }
      multiply(rows, s.K, n, {grads, KEYS, 1, key_rows + key * s.K, s.K, query_sums, s.K, true});
      multiply(n, s.K, rows, {grads, 1, KEYS, queries, s.K, key_sums + key * s.K, s.K, true});
      multiply(n, s.K, rows, {weights, 1, KEYS, outs, s.K, value_sums + key * s.K, s.K, true});
    }
    scatter(grad_q + first * s.row(), query_sums, rows, s, scale);
  }
  scatter(grad_k, key_sums, s.S, s);
  scatter(grad_v, value_sums, s.S, s);
}

// Where head i of all rows begins among queries, among keys, among totals
struct Offsets {
  long query, key, total;
  Offsets(long i, const Sizes& s)
      : query((i / s.H * s.L * s.H + i % s.H) * s.K), key((i / s.H * s.S * s.H + i % s.H) * s.K), total(i * s.L) {}
};

Sizes sizes(const Array& q, const Array& k) {
  const auto of_q = q.dimensions();
  return {of_q[0], of_q[1], k.dimensions()[1], of_q[2], of_q[3]};
}

ffi::Error forward(ffi::ThreadPool pool, bool causal, Array q, Array k, Array v, Array log_count, Result out,
                   Result log_total) {
  const Sizes s = sizes(q, k);
  const float* counts = log_count.element_count() ? log_count.typed_data() : nullptr;
  const bool few = s.L <= FEW && !causal;
  in_parallel(pool, few ? s.B : s.B * s.H, few ? floats_few(s) : floats_forward(s), [&](long i, Scratch& scratch) {
    const Offsets at(few ? i * s.H : i, s);
    const float *queries = q.typed_data() + at.query, *keys = k.typed_data() + at.key;
    const float* values = v.typed_data() + at.key;
    float *outs = out->typed_data() + at.query, *totals = log_total->typed_data() + at.total;
    if (few) row_forward(s, scratch, queries, keys, values, counts, outs, totals);
    else head_forward(s, scratch, causal, queries, keys, values, counts, outs, totals);
  });
  return ffi::Error::Success();
}

ffi::Error backward(ffi::ThreadPool pool, bool causal, Array q, Array k, Array v, Array out, Array grad,
                    Array log_total, Result grad_q, Result grad_k, Result grad_v) {
  const Sizes s = sizes(q, k);
  in_parallel(pool, s.B * s.H, floats_backward(s), [&](long i, Scratch& scratch) {
    const Offsets at(i, s);
    head_backward(s, scratch, causal, q.typed_data() + at.query, k.typed_data() + at.key, v.typed_data() + at.key,
                  out.typed_data() + at.query, grad.typed_data() + at.query, log_total.typed_data() + at.total,
                  grad_q->typed_data() + at.query, grad_k->typed_data() + at.key, grad_v->typed_data() + at.key);
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(attention_forward, forward,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Attr<bool>("causal")
                                  .Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>()
                                  .Ret<Array>().Ret<Array>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(attention_backward, backward,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Attr<bool>("causal")
                                  .Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>()
                                  .Ret<Array>().Ret<Array>().Ret<Array>());
