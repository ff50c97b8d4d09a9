// RMSNorm, RoPE, SwiGLU, sums: memory-bound, one read and one write of every element.
#include "launch.cuh"

namespace act::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
/// Rows up to this wide are one warp's work, wider ones a block's.
constexpr int64_t kWarpColumns = 512;

template <int kRowWarps>
__device__ __forceinline__ float row_sum(float x) {
  if constexpr (kRowWarps == 1) {
    return warp_sum(x);
  } else {
    return block_sum<kRowWarps>(x);
  }
}

template <class T, int kRowWarps>
__global__ void __launch_bounds__(kThreads)
    rms_norm_kernel(T* y, float* rstd, const T* x, const float* weight, int64_t rows, int64_t cols, float eps) {
  constexpr int kTeam = kRowWarps * 32;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / kTeam) + threadIdx.x / kTeam;
  if (row >= rows) return;  // a whole team
  const int lane = static_cast<int>(threadIdx.x % kTeam);
  const T* const from = x + row * cols;
  float sum = 0;
  for (int64_t c = lane; c < cols; c += kTeam) {
    const float v = to_float(from[c]);
    sum += v * v;
  }
  const float r = 1.0f / sqrtf(row_sum<kRowWarps>(sum) / static_cast<float>(cols) + eps);
  for (int64_t c = lane; c < cols; c += kTeam) y[row * cols + c] = from_float<T>(to_float(from[c]) * r * weight[c]);
  if (lane == 0 && rstd) rstd[row] = r;
}

template <class T, int kRowWarps>
__global__ void __launch_bounds__(kThreads)
    rms_norm_backward_kernel(T* dx, bool accumulate, const T* dy, const T* x, const float* rstd, const float* weight,
                             int64_t rows, int64_t cols) {
  constexpr int kTeam = kRowWarps * 32;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / kTeam) + threadIdx.x / kTeam;
  if (row >= rows) return;
  const int lane = static_cast<int>(threadIdx.x % kTeam);
  const int64_t at = row * cols;
  float dot = 0;
  for (int64_t c = lane; c < cols; c += kTeam) dot += to_float(dy[at + c]) * weight[c] * to_float(x[at + c]);
  const float r = rstd[row];
  const float mean = row_sum<kRowWarps>(dot) * r * r / static_cast<float>(cols);
  for (int64_t c = lane; c < cols; c += kTeam) {
    const float d = r * (to_float(dy[at + c]) * weight[c] - to_float(x[at + c]) * mean);
    dx[at + c] = from_float<T>(accumulate ? to_float(dx[at + c]) + d : d);
  }
}

// The angle is a product of two fp32 numbers, its cosine and sine correctly rounded (ops.h): double precision does that.
__global__ void rope_table_kernel(float* table, const int32_t* positions, const float* inv_freq, int64_t rows, int half) {
  const int64_t i = global_thread();
  if (i >= rows * half) return;
  const float angle = static_cast<float>(positions[i / half]) * inv_freq[i % half];
  table[2 * i] = static_cast<float>(cos(static_cast<double>(angle)));
  table[2 * i + 1] = static_cast<float>(sin(static_cast<double>(angle)));
}

template <class T>
__global__ void rope_kernel(T* x, const float* table, int64_t rows, int64_t heads, int half, float factor, bool inverse) {
  const int64_t i = global_thread();
  if (i >= rows * heads * half) return;
  const int64_t pair = i % half, head = i / half, row = head / heads;
  const float c = table[2 * (row * half + pair)] * factor;
  const float sine = table[2 * (row * half + pair) + 1] * factor, s = inverse ? -sine : sine;
  T* const at = x + head * 2 * half + pair;
  const float a = to_float(at[0]), b = to_float(at[half]);
  at[0] = from_float<T>(a * c - b * s);
  at[half] = from_float<T>(b * c + a * s);
}

template <class T>
__global__ void swiglu_kernel(T* y, const T* gate, const T* up, int64_t count) {
  const int64_t i = global_thread();
  if (i >= count) return;
  const float g = to_float(gate[i]);
  y[i] = from_float<T>(g / (1.0f + expf(-g)) * to_float(up[i]));
}

template <class T>
__global__ void swiglu_backward_kernel(T* dgate, T* dup, const T* dy, const T* gate, const T* up, int64_t count) {
  const int64_t i = global_thread();
  if (i >= count) return;
  const float g = to_float(gate[i]), u = to_float(up[i]), d = to_float(dy[i]), e = expf(-g);
  const float sigmoid = 1.0f / (1.0f + e);
  // 1 - sigmoid = 1 / (1 + exp(g)), which keeps its digits for large g.
  const float rest = 1.0f / (1.0f + expf(g));
  dgate[i] = from_float<T>(d * u * sigmoid * (1.0f + g * rest));
  dup[i] = from_float<T>(d * g * sigmoid);
}

template <class T>
__global__ void add_kernel(T* y, const T* x, int64_t count) {
  const int64_t i = global_thread();
  if (i < count) y[i] = from_float<T>(to_float(y[i]) + to_float(x[i]));
}

template <class T>
__global__ void scale_kernel(T* y, float factor, int64_t count) {
  const int64_t i = global_thread();
  if (i < count) y[i] = from_float<T>(to_float(y[i]) * factor);
}

}  // namespace

void launch_rms_norm(Stream s, View y, View rstd, View x, const float* weight, float eps) {
  with_type(x.dtype, [&](auto t) {
    using T = decltype(t);
    T* const to = y.as<T>();
    const T* const from = x.as<T>();
    float* const r = rstd.as<float>();
    const int64_t rows = x.rows, cols = x.cols;
    if (cols <= kWarpColumns) {
      GPU_LAUNCH((rms_norm_kernel<T, 1>), blocks_for(rows, kWarps), kThreads, 0, s, to, r, from, weight, rows, cols, eps);
    } else {
      GPU_LAUNCH((rms_norm_kernel<T, kWarps>), blocks_for(rows, 1), kThreads, 0, s, to, r, from, weight, rows, cols, eps);
    }
  });
}

void launch_rms_norm_backward(Stream s, View dx, bool accumulate, View dy, View x, const float* rstd, const float* weight) {
  with_type(x.dtype, [&](auto t) {
    using T = decltype(t);
    T* const to = dx.as<T>();
    const T *const d = dy.as<T>(), *const from = x.as<T>();
    const int64_t rows = x.rows, cols = x.cols;
    if (cols <= kWarpColumns) {
      GPU_LAUNCH((rms_norm_backward_kernel<T, 1>), blocks_for(rows, kWarps), kThreads, 0, s, to, accumulate, d, from, rstd, weight, rows, cols);
    } else {
      GPU_LAUNCH((rms_norm_backward_kernel<T, kWarps>), blocks_for(rows, 1), kThreads, 0, s, to, accumulate, d, from, rstd, weight, rows, cols);
    }
  });
}

void launch_rope_table(Stream s, float* table, const int32_t* positions, const float* inv_freq, int64_t rows, int half) {
  GPU_LAUNCH(rope_table_kernel, blocks_for(rows * half, kThreads), kThreads, 0, s, table, positions, inv_freq, rows, half);
}

void launch_rope(Stream s, View x, int head_dim, const float* table, float factor, bool inverse) {
  with_type(x.dtype, [&](auto t) {
    using T = decltype(t);
    T* const to = x.as<T>();
    const int64_t rows = x.rows, heads = x.cols / head_dim;
    const int half = head_dim / 2;
    GPU_LAUNCH((rope_kernel<T>), blocks_for(rows * heads * half, kThreads), kThreads, 0, s, to, table, rows, heads, half, factor, inverse);
  });
}

void launch_swiglu(Stream s, View y, View gate, View up) {
  with_type(y.dtype, [&](auto t) {
    using T = decltype(t);
    T* const to = y.as<T>();
    const T *const g = gate.as<T>(), *const u = up.as<T>();
    const int64_t count = y.size();
    GPU_LAUNCH((swiglu_kernel<T>), blocks_for(count, kThreads), kThreads, 0, s, to, g, u, count);
  });
}

void launch_swiglu_backward(Stream s, View dgate, View dup, View dy, View gate, View up) {
  with_type(dy.dtype, [&](auto t) {
    using T = decltype(t);
    T *const dg = dgate.as<T>(), *const du = dup.as<T>();
    const T *const d = dy.as<T>(), *const g = gate.as<T>(), *const u = up.as<T>();
    const int64_t count = dy.size();
    GPU_LAUNCH((swiglu_backward_kernel<T>), blocks_for(count, kThreads), kThreads, 0, s, dg, du, d, g, u, count);
  });
}

void launch_add(Stream s, View y, View x) {
  with_type(y.dtype, [&](auto t) {
    using T = decltype(t);
    T* const to = y.as<T>();
    const T* const from = x.as<T>();
    const int64_t count = y.size();
    GPU_LAUNCH((add_kernel<T>), blocks_for(count, kThreads), kThreads, 0, s, to, from, count);
  });
}

void launch_scale(Stream s, View y, float factor) {
  with_type(y.dtype, [&](auto t) {
    using T = decltype(t);
    T* const to = y.as<T>();
    const int64_t count = y.size();
    GPU_LAUNCH((scale_kernel<T>), blocks_for(count, kThreads), kThreads, 0, s, to, factor, count);
  });
}

}  // namespace act::cuda
