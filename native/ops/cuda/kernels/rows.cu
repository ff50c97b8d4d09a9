// Moves and sums of rows. No atomics: whoever adds to a place adds all of its terms, in their order.
#include "launch.cuh"

namespace act::cuda {
namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void fill_kernel(T* x, T value, int64_t count) {
  const int64_t i = global_thread();
  if (i < count) x[i] = value;
}

template <class To, class From>
__global__ void convert_kernel(To* dst, const From* src, float factor, int64_t count) {
  const int64_t i = global_thread();
  if (i < count) dst[i] = from_float<To>(to_float(src[i]) * factor);
}

template <class To, class From>
__global__ void gather_rows_kernel(To* dst, const From* src, const int32_t* index, int64_t rows, int64_t cols) {
  const int64_t i = global_thread();
  if (i >= rows * cols) return;
  dst[i] = from_float<To>(to_float(src[index[i / cols] * cols + i % cols]));
}

template <class To, class From>
__global__ void add_grouped_rows_kernel(To* dst, const From* src, const int32_t* rows, const int32_t* starts,
                                        const int32_t* order, int64_t cols) {
  To* const to = dst + static_cast<int64_t>(rows[blockIdx.x]) * cols;
  for (int64_t c = threadIdx.x; c < cols; c += blockDim.x) {
    float sum = to_float(to[c]);
    for (int32_t i = starts[blockIdx.x]; i < starts[blockIdx.x + 1]; i++) {
      sum += to_float(src[static_cast<int64_t>(order[i]) * cols + c]);
    }
    to[c] = from_float<To>(sum);
  }
}

// A block adds 32 columns of one piece of rows: 8 warps take every eighth row, then warp 0 adds the 8 sums in order.
constexpr int kColumnWarps = 8;

template <class T, bool kWeighted>
__global__ void __launch_bounds__(kColumnWarps * 32)
    column_sums_kernel(float* partial, const T* a, const T* b, const float* factor, int64_t rows, int64_t cols,
                       int64_t piece_rows) {
  __shared__ float sums[kColumnWarps][32];
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int64_t column = static_cast<int64_t>(blockIdx.x) * 32 + lane;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * piece_rows;
  const int64_t end = first + piece_rows < rows ? first + piece_rows : rows;
  float sum = 0;
  if (column < cols) {
    for (int64_t t = first + warp; t < end; t += kColumnWarps) {
      const float x = to_float(a[t * cols + column]);
      sum += kWeighted ? x * to_float(b[t * cols + column]) * factor[t] : x;
    }
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || column >= cols) return;
  for (int w = 1; w < kColumnWarps; w++) sum += sums[w][lane];
  partial[blockIdx.y * cols + column] = sum;
}

__global__ void add_pieces_kernel(float* out, const float* partial, int64_t pieces, int64_t cols) {
  const int64_t c = global_thread();
  if (c >= cols) return;
  float sum = partial[c];
  for (int64_t p = 1; p < pieces; p++) sum += partial[p * cols + c];
  out[c] += sum;
}

}  // namespace

void launch_fill(Stream s, View x, float value) {
  const int64_t count = x.size();
  const unsigned blocks = blocks_for(count, kThreads);
  if (x.dtype == DType::i32) {
    const auto whole = static_cast<int32_t>(value);
    int32_t* const to = x.as<int32_t>();
    GPU_LAUNCH((fill_kernel<int32_t>), blocks, kThreads, 0, s, to, whole, count);
  } else if (x.dtype == DType::bf16) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    const bf16 rounded{static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16)};
    bf16* const to = x.as<bf16>();
    GPU_LAUNCH((fill_kernel<bf16>), blocks, kThreads, 0, s, to, rounded, count);
  } else {
    float* const to = x.as<float>();
    GPU_LAUNCH((fill_kernel<float>), blocks, kThreads, 0, s, to, value, count);
  }
}

void launch_convert(Stream s, View dst, View src, float factor) {
  with_type(dst.dtype, [&](auto to_type) {
    with_type(src.dtype, [&](auto from_type) {
      using To = decltype(to_type);
      using From = decltype(from_type);
      To* const to = dst.as<To>();
      const From* const from = src.as<From>();
      const int64_t count = src.size();
      GPU_LAUNCH((convert_kernel<To, From>), blocks_for(count, kThreads), kThreads, 0, s, to, from, factor, count);
    });
  });
}

void launch_gather_rows(Stream s, View dst, View src, const int32_t* index) {
  with_type(dst.dtype, [&](auto to_type) {
    with_type(src.dtype, [&](auto from_type) {
      using To = decltype(to_type);
      using From = decltype(from_type);
      To* const to = dst.as<To>();
      const From* const from = src.as<From>();
      const int64_t rows = dst.rows, cols = dst.cols;
      GPU_LAUNCH((gather_rows_kernel<To, From>), blocks_for(rows * cols, kThreads), kThreads, 0, s, to, from, index, rows, cols);
    });
  });
}

void launch_add_grouped_rows(Stream s, View dst, View src, const int32_t* rows, const int32_t* starts,
                             const int32_t* order, int64_t groups) {
  with_type(dst.dtype, [&](auto to_type) {
    with_type(src.dtype, [&](auto from_type) {
      using To = decltype(to_type);
      using From = decltype(from_type);
      To* const to = dst.as<To>();
      const From* const from = src.as<From>();
      const int64_t cols = dst.cols;
      GPU_LAUNCH((add_grouped_rows_kernel<To, From>), static_cast<unsigned>(groups), 128, 0, s, to, from, rows, starts, order, cols);
    });
  });
}

int64_t column_sum_pieces(int64_t rows) {
  constexpr int64_t kMostPieces = 64, kFewestRows = 64;
  const int64_t pieces = (rows + kFewestRows - 1) / kFewestRows;
  return pieces < 1 ? 1 : pieces > kMostPieces ? kMostPieces : pieces;
}

void launch_column_sums(Stream s, float* out, float* partial, View a, View b, const float* factor) {
  const int64_t rows = a.rows, cols = a.cols, pieces = column_sum_pieces(rows), piece_rows = (rows + pieces - 1) / pieces;
  const dim3 grid(blocks_for(cols, 32), static_cast<unsigned>(pieces));
  with_type(a.dtype, [&](auto t) {
    using T = decltype(t);
    const T *const x = a.as<T>(), *const y = b.as<T>();
    if (b.data) {
      GPU_LAUNCH((column_sums_kernel<T, true>), grid, kColumnWarps * 32, 0, s, partial, x, y, factor, rows, cols, piece_rows);
    } else {
      GPU_LAUNCH((column_sums_kernel<T, false>), grid, kColumnWarps * 32, 0, s, partial, x, y, factor, rows, cols, piece_rows);
    }
  });
  GPU_LAUNCH(add_pieces_kernel, blocks_for(cols, kThreads), kThreads, 0, s, out, partial, pieces, cols);
}

}  // namespace act::cuda
