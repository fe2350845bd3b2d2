// e4m3 values with a power-of-two scale for every 128 along a row: quantize_tiles of
// kernels/fp8.py, byte for byte. No headers, so that NVRTC needs no CUDA toolkit.
//
// A tile of 128 belongs to 16 threads, 8 values each: 16 or 32 bytes in, 8 bytes out. Every value
// is read once and stays in registers between the maximum and the cast.

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;

constexpr int TILE = 128;
constexpr int VALUES = 8;                // of one thread
constexpr int LANES = TILE / VALUES;     // of one tile
constexpr u32 INFINITY_BITS = 0x7f800000u;
constexpr u32 NAN_BITS = 0x7fc00000u;    // torch.nan
constexpr u8 NAN_E4M3 = 0x7f;

// Read once: past L1, 128 bytes at a time into L2.
__device__ __forceinline__ void load16(const void* from, u32 (&words)[4]) {
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "l"(from));
}

struct Float32 {
    typedef float Stored;
    static __device__ __forceinline__ float widen(float value) { return value; }
    static __device__ __forceinline__ void load(const float* from, float (&x)[VALUES]) {
        u32 words[4];
        for (int half = 0; half < 2; ++half) {
            load16(from + 4 * half, words);
            for (int i = 0; i < 4; ++i) x[4 * half + i] = __uint_as_float(words[i]);
        }
    }
};

struct Bfloat16 {
    typedef u16 Stored;
    static __device__ __forceinline__ float widen(u16 value) {
        return __uint_as_float(static_cast<u32>(value) << 16);
    }
    static __device__ __forceinline__ void load(const u16* from, float (&x)[VALUES]) {
        u32 words[4];
        load16(from, words);
        for (int i = 0; i < 4; ++i) {
            x[2 * i] = __uint_as_float(words[i] << 16);
            x[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
        }
    }
};

struct Float16 {
    typedef u16 Stored;
    static __device__ __forceinline__ float widen(u16 value) {
        float wide;
        asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value));
        return wide;
    }
    static __device__ __forceinline__ void load(const u16* from, float (&x)[VALUES]) {
        u32 words[4];
        load16(from, words);
        for (int i = 0; i < 4; ++i) {
            x[2 * i] = widen(static_cast<u16>(words[i] & 0xffffu));
            x[2 * i + 1] = widen(static_cast<u16>(words[i] >> 16));
        }
    }
};

// Bits of a magnitude order as the magnitudes do, and NaN lies above infinity.
__device__ __forceinline__ u32 largest_magnitude(const float (&x)[VALUES]) {
    u32 largest = 0;
    for (int i = 0; i < VALUES; ++i) largest = max(largest, __float_as_uint(x[i]) & 0x7fffffffu);
    for (int distance = LANES / 2; distance > 0; distance /= 2)
        largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, distance));
    return largest;
}

// Two values: the second operand of cvt is the lower byte.
__device__ __forceinline__ u32 e4m3x2(float low, float high) {
    u16 packed;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(packed) : "f"(high), "f"(low));
    return packed;
}

// values [M, K] and q [M, K] with rows one after the other; scales [M, tiles], tiles = ceil(K / 128).
// vectors: K and both addresses allow loads of 16 bytes and stores of 8.
template <typename Format>
__device__ __forceinline__ void quantize(const typename Format::Stored* values, u8* q,
                                         float* scales, int M, int K, int vectors) {
    const int tiles = (K + TILE - 1) / TILE;
    const long long tile =
        static_cast<long long>(blockIdx.x) * (blockDim.x / LANES) + threadIdx.x / LANES;
    const int lane = threadIdx.x % LANES;
    // No thread leaves before the shuffle: a tile past the end is one of zeros, and not stored.
    const bool inside = tile < static_cast<long long>(M) * tiles;
    const long long row = inside ? tile / tiles : 0;
    const int column = static_cast<int>(inside ? tile % tiles : 0) * TILE + lane * VALUES;
    const long long at = row * K + column;
    const int count = inside ? min(max(K - column, 0), VALUES) : 0;

    float x[VALUES];
    if (vectors && count == VALUES) {
        Format::load(values + at, x);
    } else {
#pragma unroll
        for (int i = 0; i < VALUES; ++i) x[i] = i < count ? Format::widen(values[at + i]) : 0.0f;
    }

    // The exponent, with its bias, of the smallest power of two >= amax / 448 = amax / (1.75 * 2^8).
    const u32 amax = largest_magnitude(x);
    const bool finite = amax < INFINITY_BITS;
    int exponent = static_cast<int>(amax >> 23) - 8 + ((amax & 0x7fffffu) > 0x600000u);
    exponent = amax == 0 ? 127 : max(exponent, 1);
    const float inverse = __uint_as_float(static_cast<u32>(254 - exponent) << 23);
    if (inside && lane == 0)
        scales[tile] = __uint_as_float(finite ? static_cast<u32>(exponent) << 23 : NAN_BITS);

    u32 packed[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int i = 4 * half;
        packed[half] = e4m3x2(x[i] * inverse, x[i + 1] * inverse) |
                       e4m3x2(x[i + 2] * inverse, x[i + 3] * inverse) << 16;
        if (!finite) packed[half] = NAN_E4M3 * 0x01010101u;
    }
    if (vectors && count == VALUES) {
        asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(q + at), "r"(packed[0]),
                     "r"(packed[1])
                     : "memory");
    } else {
#pragma unroll
        for (int i = 0; i < VALUES; ++i)
            if (i < count) q[at + i] = static_cast<u8>(packed[i / 4] >> (8 * (i % 4)));
    }
}

extern "C" __global__ void __launch_bounds__(256)
    quantize_tiles_float32(const float* values, u8* q, float* scales, int M, int K, int vectors) {
    quantize<Float32>(values, q, scales, M, K, vectors);
}

extern "C" __global__ void __launch_bounds__(256)
    quantize_tiles_bfloat16(const u16* values, u8* q, float* scales, int M, int K, int vectors) {
    quantize<Bfloat16>(values, q, scales, M, K, vectors);
}

extern "C" __global__ void __launch_bounds__(256)
    quantize_tiles_float16(const u16* values, u8* q, float* scales, int M, int K, int vectors) {
    quantize<Float16>(values, q, scales, M, K, vectors);
}
