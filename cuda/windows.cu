// Entropies of windows on a GPU; windows.h says what is computed. Compiled by NVRTC with SCALAR = float or double, the
// type of the maps; sums are in double precision and in an order that nothing but the size decides.
#define DEVICE __device__
#define LANE int(threadIdx.x)
#define LANES int(blockDim.x)
#define BARRIER __syncthreads()
#define UNROLL _Pragma("unroll")

#include "windows.h"

constexpr int WARP = 32;
constexpr int STRIPS = 8;  // of the rows between the borders; common/kernels/windows.py has it too

extern __shared__ double shared_memory[];

// Two maps, centred, and 0 outside.
struct Maps {
    const SCALAR *first, *second;
    double mean, second_mean;
    int height, width;

    DEVICE double at(int map, int y, int x) const {
        if (y < 0 || y >= height || x < 0 || x >= width) return 0;
        const int cell = y * width + x;
        return map ? double(second[cell]) - second_mean : double(first[cell]) - mean;
    }
};

DEVICE inline Maps maps_of(Index image, int height, int width, const SCALAR* first, const SCALAR* second,
                           const double* mean, const double* second_mean) {
    const Index start = image * height * width;
    return {first + start, second + start, mean[image], second_mean[image], height, width};
}

// Rows that go together: those between the borders in STRIPS parts, then every row of the borders alone.
struct Rows {
    int group, first, last;
};

template <int R>
DEVICE inline Rows rows_of(int part, int height) {
    const int between = height - 2 * R + 2;
    if (part < STRIPS) return {R - 1, R - 1 + between * part / STRIPS, R - 1 + between * (part + 1) / STRIPS};
    const int group = part - STRIPS < R - 1 ? part - STRIPS : part - STRIPS + 1;
    const int row = group_start(R, height, group);
    return {group, row, row + 1};
}

DEVICE inline double warp_sum(double value) {
    for (int distance = WARP / 2; distance; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

// table: [images, R, groups, sums]. Grid: a block of warps per image and `down`. Every part of the rows is one warp's,
// with a column per lane, those of the borders first. Shared: [parts, side, sums], by groups of columns.
template <int R>
DEVICE inline void sum_products(int height, int width, const SCALAR* first, const SCALAR* second, const double* mean,
                                const double* second_mean, double* table) {
    constexpr int side = Window<R>::side, sums = Window<R>::sums, parts = STRIPS + side - 1;
    const Index image = blockIdx.x / R;
    const int down = blockIdx.x % R, lane = LANE % WARP;
    const Maps maps = maps_of(image, height, width, first, second, mean, second_mean);
    for (int part = LANE / WARP; part < parts; part += LANES / WARP) {
        const Rows rows = rows_of<R>(part, height);
        double* out = shared_memory + part * side * sums;
        double total[sums];
        UNROLL
        for (int i = 0; i < sums; ++i) total[i] = 0;
        for (int i = lane; i < width; i += WARP) {
            const int border = i < R - 1 ? i : i + 1;  // the group of the column if it is one of the borders'
            const bool alone = i < side - 1;
            const int x = alone ? group_start(R, width, border) : i - (R - 1);
            add_products<R>(maps, down, rows.first, rows.last, x, total);
            if (!alone) continue;
            UNROLL
            for (int k = 0; k < sums; ++k) {
                out[border * sums + k] = total[k];
                total[k] = 0;
            }
        }
        __syncwarp();
        UNROLL
        for (int i = 0; i < sums; ++i) {
            const double value = warp_sum(total[i]);
            if (lane == 0) out[(R - 1) * sums + i] = value;
        }
    }
    __syncthreads();
    double* out = table + Index(blockIdx.x) * side * side * sums;
    for (int e = LANE; e < side * side * sums; e += LANES) {
        const int group = e / (side * sums), rest = e % (side * sums);
        double value = 0;
        if (group == R - 1)
            for (int part = 0; part < STRIPS; ++part) value += shared_memory[part * side * sums + rest];
        else
            value = shared_memory[(STRIPS + (group < R - 1 ? group : group - 1)) * side * sums + rest];
        out[e] = value;
    }
}

// A number of the stencil of a group of cells: the sum over the windows that these cells lie in.
template <int R>
DEVICE inline double stencil_at(const double* matrix, const double* offset, int group, int which) {
    constexpr int side = Window<R>::side;
    const int row = group / side, column = group % side;
    const int map = (which - 1) / (side * side), at = (which - 1) % (side * side);
    const int down = at / side - (R - 1), across = at % side - (R - 1);
    double total = 0;
    for (int y = row < R ? 0 : row - R + 1; y <= row && y < R; ++y)
        for (int x = column < R ? 0 : column - R + 1; x <= column && x < R; ++x) {
            const int place = y * R + x, other_y = y + down, other_x = x + across;
            if (which == 0)
                total += offset[place];
            else if (other_y >= 0 && other_y < R && other_x >= 0 && other_x < R)
                total += matrix[place * Window<R>::places + map * R * R + other_y * R + other_x];
        }
    return total;
}

// stencils: [images, groups, stencil]. Grid: a block per image.
template <int R>
DEVICE inline void make_stencils(const double* matrix, const double* offset, const double* by_entropy,
                                 double* stencils) {
    constexpr int size = Window<R>::stencil, area = Window<R>::area;
    const Index image = blockIdx.x;
    for (int e = LANE; e < Window<R>::groups * size; e += LANES)
        stencils[image * Window<R>::groups * size + e] =
            by_entropy[image] * stencil_at<R>(matrix + image * area * 2 * area, offset + image * area, e / size, e % size);
}

// Grid: a block per image and part of the rows, a column per thread.
template <int R>
DEVICE inline void apply_stencils(int height, int width, const SCALAR* first, const SCALAR* second, const double* mean,
                                  const double* second_mean, const double* stencils, SCALAR* out) {
    constexpr int side = Window<R>::side, size = Window<R>::stencil, ROWS = 4;
    constexpr int parts = STRIPS + side - 1;
    const Index image = blockIdx.x / parts;
    const Maps maps = maps_of(image, height, width, first, second, mean, second_mean);
    const Rows rows = rows_of<R>(blockIdx.x % parts, height);
    SCALAR* result = out + image * height * width;
    for (int x = LANE; x < width; x += LANES) {
        const Index group = (image * side + rows.group) * side + group_of(R, width, x);
        const double* stencil = stencils + group * size;
        int y = rows.first;
        for (; y + ROWS <= rows.last; y += ROWS) {
            double values[ROWS];
            apply_stencil<R, ROWS>(maps, stencil, y, x, values);
            UNROLL
            for (int row = 0; row < ROWS; ++row) result[(y + row) * width + x] = SCALAR(values[row]);
        }
        for (; y < rows.last; ++y) {
            double value;
            apply_stencil<R, 1>(maps, stencil, y, x, &value);
            result[y * width + x] = SCALAR(value);
        }
    }
}

#define KERNELS(R)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(256)                                                                \
        products_##R(int height, int width, const SCALAR* first, const SCALAR* second, const double* mean,           \
                     const double* second_mean, double* table) {                                                     \
        sum_products<R>(height, width, first, second, mean, second_mean, table);                                     \
    }                                                                                                                \
    extern "C" __global__ void __launch_bounds__(128)                                                                \
        entropies_##R(double count, double scale, double ridge, const double* table, double* entropy, double* matrix,\
                      double* offset) {                                                                              \
        const Index image = blockIdx.x;                                                                              \
        entropy_of<R>(table + image * R * Window<R>::groups * Window<R>::sums, count, scale, ridge, entropy + image, \
                      matrix + image * Window<R>::area * Window<R>::places, offset + image * Window<R>::area,        \
                      shared_memory);                                                                                \
    }                                                                                                                \
    extern "C" __global__ void __launch_bounds__(256, 2)                                                             \
        stencils_##R(const double* matrix, const double* offset, const double* by_entropy, double* stencils) {       \
        make_stencils<R>(matrix, offset, by_entropy, stencils);                                                      \
    }                                                                                                                \
    extern "C" __global__ void __launch_bounds__(256, 2)                                                             \
        apply_##R(int height, int width, const SCALAR* first, const SCALAR* second, const double* mean,              \
                  const double* second_mean, const double* stencils, SCALAR* out) {                                  \
        apply_stencils<R>(height, width, first, second, mean, second_mean, stencils, out);                           \
    }

#ifdef RADIUS
#define KERNELS_OF(R) KERNELS(R)
KERNELS_OF(RADIUS)
#else
KERNELS(1)
KERNELS(2)
KERNELS(3)
KERNELS(4)
KERNELS(5)
#endif
