// The two products of attention and the softmax between them, on pages of 16 keys. A score is one chain over the head
// dimension; an output element is one chain over ascending keys; the softmax sum has 16 lanes by position modulo 16.
#include "fill.h"

namespace act::cpu::ACT_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kScoreRows = 8, kScorePages = 3, kMostPages = 4, kWeighRows = 6, kWeighVectors = 4;
#elif defined(__AVX2__)
constexpr int kScoreRows = 6, kScorePages = 1, kMostPages = 2, kWeighRows = 6, kWeighVectors = 2;
#else
constexpr int kScoreRows = 2, kScorePages = 1, kMostPages = 1, kWeighRows = 4, kWeighVectors = 2;
#endif

/// Pages lie anywhere in memory, which the processor's own prefetching does not foresee: while one is read, the one so
/// many pages on is brought closer. (Measured with 64 MB of keys and values: one ahead 14 to 25 % faster than none, two
/// 23 to 30 %.)
constexpr int kPagesAhead = 2;

/// Multiplies the first P pages; with `fetch` those behind them, up to `count`, are brought closer.
template <class E, int R, int P>
void score_tile(int64_t depth, const float* a, int64_t a_row, const void* const* pages, int count, bool fetch,
                float scale, float* s, int64_t stride) {
  constexpr int kAhead = P > kPagesAhead ? P : kPagesAhead;
  constexpr int V = P * kParts;
  vf acc[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int j = 0; j < V; j++) acc[r][j] = zero();
  const E *page[P], *next[P];
  for (int p = 0; p < P; p++) {
    page[p] = static_cast<const E*>(pages[p]);
    next[p] = static_cast<const E*>(pages[p + kAhead < count ? p + kAhead : p]);
  }
  constexpr int kStepsPerLine = 4 / sizeof(E);
  for (int64_t i = 0; i < depth; i++) {
    if (fetch && i % kStepsPerLine == 0) {
#pragma GCC unroll 4
      for (int p = 0; p < P; p++) __builtin_prefetch(next[p] + i * 16);
    }
    vf key[V];
#pragma GCC unroll 4
    for (int j = 0; j < V; j++) key[j] = load(page[j / kParts] + i * 16 + j % kParts * kWidth);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const vf x = broadcast(a[r * a_row + i]);
#pragma GCC unroll 4
      for (int j = 0; j < V; j++) acc[r][j] = fma(x, key[j], acc[r][j]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int j = 0; j < V; j++) store(s + r * stride + j * kWidth, acc[r][j] * scale);
}

/// Pages that a tile of `rows` rows takes at once: few rows take more, so that as many chains are under way.
constexpr int most_pages(int rows) {
  const int pages = kScoreRows * kScorePages / rows;
  return pages < kMostPages ? pages : kMostPages;
}

/// The first `now` <= P pages.
template <class E, int R, int P = most_pages(R)>
ACT_INLINE void score_pages(int now, int64_t depth, const float* a, int64_t a_row, const void* const* pages, int count,
                            bool fetch, float scale, float* s, int64_t stride) {
  if constexpr (P > 1) {
    if (now < P) return score_pages<E, R, P - 1>(now, depth, a, a_row, pages, count, fetch, scale, s, stride);
  }
  score_tile<E, R, P>(depth, a, a_row, pages, count, fetch, scale, s, stride);
}

template <class E, int R>
void score_rows(int page_count, int64_t depth, const float* a, int64_t a_row, const void* const* pages, bool fetch,
                float scale, float* s, int64_t stride) {
  constexpr int kMost = most_pages(R);
  for (int p = 0, now; p < page_count; p += now) {
    const int left = page_count - p;
    now = left >= 2 * kMost ? kMost : left > kMost ? (left + 1) / 2 : left;
    score_pages<E, R>(now, depth, a, a_row, pages + p, left, fetch, scale, s + 16 * p, stride);
  }
}

template <class E, int R = 1>
void scores_of(int rows, int page_count, int64_t depth, const float* a, int64_t a_row, const void* const* pages,
               bool fetch, float scale, float* s, int64_t stride) {
  if (rows == R) return score_rows<E, R>(page_count, depth, a, a_row, pages, fetch, scale, s, stride);
  if constexpr (R < kScoreRows) scores_of<E, R + 1>(rows, page_count, depth, a, a_row, pages, fetch, scale, s, stride);
}

void scores(int rows, int page_count, int64_t depth, const float* a, int64_t a_row, const void* const* pages, bool bf16,
            bool fetch, float scale, float* s, int64_t stride) {
  if (bf16) return scores_of<uint16_t>(rows, page_count, depth, a, a_row, pages, fetch, scale, s, stride);
  scores_of<float>(rows, page_count, depth, a, a_row, pages, fetch, scale, s, stride);
}

template <class E, int R, int V>
void weigh_tile(const RowRun* runs, int run_count, int64_t run_stride, bool fetch, const float* p, int64_t p_row,
                int64_t p_step, int64_t column, float* acc, int64_t acc_stride) {
  vf sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int j = 0; j < V; j++) sum[r][j] = load(acc + r * acc_stride + column + j * kWidth);
  constexpr int kVectorsPerLine = 64 / sizeof(E) / kWidth;
  for (int run = 0; run < run_count; run++) {
    const E* row = static_cast<const E*>(runs[run].rows) + column;
    const E* next = static_cast<const E*>(runs[run + kPagesAhead < run_count ? run + kPagesAhead : run].rows) + column;
    for (int64_t i = 0; i < runs[run].count; i++, row += run_stride, next += run_stride, p += p_step) {
      for (int j = 0; fetch && j < V; j += kVectorsPerLine) __builtin_prefetch(next + j * kWidth);
      vf value[V];
#pragma GCC unroll 4
      for (int j = 0; j < V; j++) value[j] = load(row + j * kWidth);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        const vf x = broadcast(p[r * p_row]);
#pragma GCC unroll 4
        for (int j = 0; j < V; j++) sum[r][j] = fma(x, value[j], sum[r][j]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int j = 0; j < V; j++) store(acc + r * acc_stride + column + j * kWidth, sum[r][j]);
}

template <class E, int R>
void weigh_rows(int64_t columns, const RowRun* runs, int run_count, int64_t run_stride, bool fetch, const float* p,
                int64_t p_row, int64_t p_step, float* acc, int64_t acc_stride) {
  int64_t column = 0;
  for (; column + kWeighVectors * kWidth <= columns; column += kWeighVectors * kWidth) {
    weigh_tile<E, R, kWeighVectors>(runs, run_count, run_stride, fetch, p, p_row, p_step, column, acc, acc_stride);
  }
  if (column + 2 * kWidth <= columns) {
    weigh_tile<E, R, 2>(runs, run_count, run_stride, fetch, p, p_row, p_step, column, acc, acc_stride);
    column += 2 * kWidth;
  }
  for (; column < columns; column += kWidth) {
    weigh_tile<E, R, 1>(runs, run_count, run_stride, fetch, p, p_row, p_step, column, acc, acc_stride);
  }
}

template <class E, int R = 1>
void weigh_of(int rows, int64_t columns, const RowRun* runs, int run_count, int64_t run_stride, bool fetch,
              const float* p, int64_t p_row, int64_t p_step, float* acc, int64_t acc_stride) {
  if (rows == R)
    return weigh_rows<E, R>(columns, runs, run_count, run_stride, fetch, p, p_row, p_step, acc, acc_stride);
  if constexpr (R < kWeighRows)
    weigh_of<E, R + 1>(rows, columns, runs, run_count, run_stride, fetch, p, p_row, p_step, acc, acc_stride);
}

void weigh(int rows, int64_t columns, const RowRun* runs, int run_count, int64_t run_stride, bool bf16, bool fetch,
           const float* p, int64_t p_row, int64_t p_step, float* acc, int64_t acc_stride) {
  if (bf16)
    return weigh_of<uint16_t>(rows, columns, runs, run_count, run_stride, fetch, p, p_row, p_step, acc, acc_stride);
  weigh_of<float>(rows, columns, runs, run_count, run_stride, fetch, p, p_row, p_step, acc, acc_stride);
}

void softmax(float* s, int64_t n, float* max, float* sum) {
  const int64_t padded = (n + 15) / 16 * 16;
  for (int64_t i = n; i < padded; i++) s[i] = -__builtin_inff();
  Lanes top = load_lanes(s);
  for (int64_t i = 16; i < padded; i += 16) {
    const Lanes x = load_lanes(s + i);
    for (int j = 0; j < kParts; j++) top.part[j] = at_least(x.part[j], top.part[j]);
  }
  *max = max_of(top);
  Lanes total = lanes_of(0);
  for (int64_t i = 0; i < padded; i += 16) {
    Lanes x = load_lanes(s + i);
    for (int j = 0; j < kParts; j++) {
      x.part[j] = exponential(x.part[j] - *max);
      total.part[j] = total.part[j] + x.part[j];
    }
    store_lanes(s + i, x);
  }
  *sum = sum_of(total);
}

void softmax_backward(float* s, float* dp, int64_t n, float lse, float delta, float scale) {
  const int64_t padded = (n + 15) / 16 * 16;
  for (int64_t i = n; i < padded; i++) {
    s[i] = -__builtin_inff();
    dp[i] = delta;
  }
  for (int64_t i = 0; i < padded; i += kWidth) {
    const vf p = exponential(load(s + i) - lse);
    store(s + i, p);
    store(dp + i, p * (load(dp + i) - delta) * scale);
  }
}

}  // namespace

void fill_attention(Kernels& k) {
  k.score_rows = kScoreRows;
  k.weigh_rows = kWeighRows;
  k.scores = scores;
  k.weigh = weigh;
  k.softmax = softmax;
  k.softmax_backward = softmax_backward;
}

}  // namespace act::cpu::ACT_ISA
