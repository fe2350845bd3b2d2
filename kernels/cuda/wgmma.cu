// out = a @ b.T of e4m3 operands with block scales, on Hopper's tensor cores (sm_90a): matmul of
// kernels/fp8.py for b_layout = "blocks". No headers, so that NVRTC needs no CUDA toolkit.
//
// A block of one warpgroup makes 64 x 128 of the output, 128 of the contraction at a time:
// cp.async fills one stage of shared memory while the tensor cores read the other. The tensor
// core's accumulator keeps about 14 bits, so every 128 it is scaled into float32 registers.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned char u8;

constexpr int BLOCK_M = 64;
constexpr int BLOCK_N = 128;
constexpr int BLOCK_K = 128;
constexpr int THREADS = 128;
constexpr int CHUNK = 16;  // bytes of one cp.async
constexpr int A_BYTES = BLOCK_M * BLOCK_K;
constexpr int B_BYTES = BLOCK_N * BLOCK_K;
constexpr int STAGE_BYTES = A_BYTES + B_BYTES;
constexpr int SUMS = BLOCK_M * BLOCK_N / THREADS;  // of one thread

// Rows of 128 bytes, swizzled as the descriptor below says: in each 8 rows, 1024 bytes, chunk c of
// row r lies at c ^ r. Rows and columns past the end are filled with zeros, which add nothing.
template <int ROWS>
__device__ __forceinline__ void copy_rows(u32 shared, const u8* from, int first_row, int rows,
                                          int column, int K) {
    constexpr int CHUNKS = BLOCK_K / CHUNK;
#pragma unroll
    for (int i = 0; i < ROWS * CHUNKS / THREADS; ++i) {
        const int index = i * THREADS + threadIdx.x;
        const int row = index / CHUNKS;
        const int chunk = index % CHUNKS;
        const bool inside = first_row + row < rows && column + chunk * CHUNK < K;
        const long long at = static_cast<long long>(first_row + row) * K + column + chunk * CHUNK;
        const u8* source = inside ? from + at : from;
        const u32 target = shared + row * BLOCK_K + (chunk ^ (row % 8)) * CHUNK;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source),
                     "r"(inside ? CHUNK : 0)
                     : "memory");
    }
}

// Of K-major rows with the 128-byte swizzle (1 in bits 62 and 63): 8 rows are 1024 bytes from the
// next 8; the leading offset has no meaning there. All counted in 16 bytes.
__device__ __forceinline__ u64 descriptor(u32 shared) {
    return static_cast<u64>((shared & 0x3ffffu) >> 4) | static_cast<u64>(1) << 16 |
           static_cast<u64>(1024 >> 4) << 32 | static_cast<u64>(1) << 62;
}

// d = a @ b.T + d, without d where accumulate is 0; 64 x 128 x 32.
__device__ __forceinline__ void wgmma(float (&d)[SUMS], u64 a, u64 b, int accumulate) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.b32 p, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "%64, %65, p, 1, 1;\n"
        "}\n"
        :
          "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]),
          "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),
          "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]),
          "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
          "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),
          "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),
          "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
          "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]),
          "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]),
          "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
        : "l"(a), "l"(b), "r"(accumulate));
}

// The 64 x 128 x 128 product of one stage, complete when this returns.
__device__ __forceinline__ void multiply(float (&d)[SUMS], u32 a, u32 b) {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (int k = 0; k < BLOCK_K; k += 32)
        wgmma(d, descriptor(a + k), descriptor(b + k), k > 0);
    asm volatile("wgmma.commit_group.sync.aligned;\n"
                 "wgmma.wait_group.sync.aligned 0;" ::: "memory");
    // The compiler takes d for written when the asynchronous instruction was issued; this keeps
    // what reads d below the wait.
#pragma unroll
    for (int i = 0; i < SUMS; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

__device__ __forceinline__ void store(float* out, float value) { *out = value; }

struct Bfloat16 {
    unsigned short bits;
};
__device__ __forceinline__ void store(Bfloat16* out, float value) {
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out->bits) : "f"(value));
}

struct Float16 {
    unsigned short bits;
};
__device__ __forceinline__ void store(Float16* out, float value) {
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out->bits) : "f"(value));
}

// a [M, K], a_scales [M, tiles], b [N, K], b_scales [ceil(N / 128), tiles], out [M, N], all with
// rows one after the other; tiles = ceil(K / 128); K and the addresses of a and b are multiples of 16.
template <typename Out>
__device__ __forceinline__ void matmul(const u8* a, const float* a_scales, const u8* b,
                                       const float* b_scales, Out* out, int M, int N, int K) {
    __shared__ __align__(1024) u8 stages[2 * STAGE_BYTES];
    const u32 shared = static_cast<u32>(__cvta_generic_to_shared(stages));
    const int m = blockIdx.x * BLOCK_M;
    const int n = blockIdx.y * BLOCK_N;
    const int tiles = (K + BLOCK_K - 1) / BLOCK_K;
    // Of warp w and lane l, the tensor core gives sum 4 j + 2 h + e to row 16 w + l / 4 + 8 h and
    // column 8 j + 2 (l mod 4) + e.
    const int lane = threadIdx.x % 32;
    const int row = m + threadIdx.x / 32 * 16 + lane / 4;
    const float* block_scales = b_scales + static_cast<long long>(blockIdx.y) * tiles;

    float sums[SUMS];
#pragma unroll
    for (int i = 0; i < SUMS; ++i) sums[i] = 0.0f;
    copy_rows<BLOCK_M>(shared, a, m, M, 0, K);
    copy_rows<BLOCK_N>(shared + A_BYTES, b, n, N, 0, K);
    asm volatile("cp.async.commit_group;" ::: "memory");
    for (int t = 0; t < tiles; ++t) {
        const u32 stage = shared + t % 2 * STAGE_BYTES;
        if (t + 1 < tiles) {
            const u32 next = shared + (t + 1) % 2 * STAGE_BYTES;
            copy_rows<BLOCK_M>(next, a, m, M, (t + 1) * BLOCK_K, K);
            copy_rows<BLOCK_N>(next + A_BYTES, b, n, N, (t + 1) * BLOCK_K, K);
        }
        // An empty group after the last, so that all but the newest are this stage and older.
        asm volatile("cp.async.commit_group;\n"
                     "cp.async.wait_group 1;" ::: "memory");
        float scales[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int r = row + 8 * half;
            const float scale = r < M ? a_scales[static_cast<long long>(r) * tiles + t] : 0.0f;
            scales[half] = scale * block_scales[t];
        }
        // The tensor core reads shared memory by another path than the copies wrote it.
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads();
        float product[SUMS];
        multiply(product, stage, stage + A_BYTES);
#pragma unroll
        for (int i = 0; i < SUMS; ++i) sums[i] += product[i] * scales[i / 2 % 2];
        __syncthreads();  // the next round's copies overwrite this stage
    }
#pragma unroll
    for (int i = 0; i < SUMS; ++i) {
        const int r = row + i / 2 % 2 * 8;
        const int column = n + i / 4 * 8 + lane % 4 * 2 + i % 2;
        if (r < M && column < N) store(out + static_cast<long long>(r) * N + column, sums[i]);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    matmul_float32(const u8* a, const float* a_scales, const u8* b, const float* b_scales,
                   float* out, int M, int N, int K) {
    matmul(a, a_scales, b, b_scales, out, M, N, K);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    matmul_bfloat16(const u8* a, const float* a_scales, const u8* b, const float* b_scales,
                    Bfloat16* out, int M, int N, int K) {
    matmul(a, a_scales, b, b_scales, out, M, N, K);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    matmul_float16(const u8* a, const float* a_scales, const u8* b, const float* b_scales,
                   Float16* out, int M, int N, int K) {
    matmul(a, a_scales, b, b_scales, out, M, N, K);
}
