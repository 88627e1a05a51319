// Entropies of windows on the CPU: a vector of neighbouring columns at a time. windows.h says what is computed.
#include <algorithm>
#include <cmath>
#include <vector>

#include "pack.h"

#define DEVICE
#define LANE 0
#define LANES 1
#define BARRIER
#define UNROLL _Pragma("GCC unroll 16")

using std::log;
using std::sqrt;

#include "windows.h"

typedef Vector<double>::type V;

namespace {

constexpr int WIDTH = sizeof(V) / sizeof(double);
constexpr int ROWS = 4;  // cells that a stencil is applied to at a time

double sum(V values) {
    double total = 0;
    for (int lane = 0; lane < WIDTH; ++lane) total += values[lane];
    return total;
}

// Two maps, centred, with zeros around them.
class Maps {
   public:
    Maps(int height, int width, int radius)
        : height(height), width(width), border(radius - 1), stride(width + 2 * border + WIDTH),
          size(stride * (height + 2 * border + ROWS)), values(2 * size) {}

    template <class T>
    void fill(int map, const T* from) {
        double total = 0;
        for (Index i = 0; i < Index(height) * width; ++i) total += double(from[i]);
        const double mean = total / (double(height) * width);
        for (int y = 0; y < height; ++y) {
            double* to = values.data() + map * size + (y + border) * stride + border;
            for (int x = 0; x < width; ++x) to[x] = double(from[Index(y) * width + x]) - mean;
        }
    }

    V at(int map, int y, int x) const {
        V result;
        std::memcpy(&result, values.data() + map * size + (y + border) * stride + x + border, sizeof(V));
        return result;
    }

    const int height, width;

   private:
    const int border;
    const Index stride, size;
    std::vector<double> values;
};

// The sums of add_products by group, [R, groups, sums].
template <int R>
void fill_table(const Maps& maps, double* table) {
    constexpr int sums = Window<R>::sums, side = Window<R>::side;
    std::fill_n(table, R * Window<R>::groups * sums, 0.0);
    for (int group = 0; group < side; ++group) {
        const int first = group_start(R, maps.height, group), last = group_start(R, maps.height, group + 1);
        V middle[R][sums] = {};
        for (int x = 0; x < maps.width; x += WIDTH)
            for (int down = 0; down < R; ++down) {
                V part[sums] = {};
                add_products<R>(maps, down, first, last, x, part);
                double* out = table + (down * side + group) * side * sums;
                if (x >= R - 1 && x + WIDTH <= maps.width - R + 1)
                    for (int i = 0; i < sums; ++i) middle[down][i] += part[i];
                else
                    for (int lane = 0; lane < WIDTH && x + lane < maps.width; ++lane)
                        for (int i = 0; i < sums; ++i)
                            out[group_of(R, maps.width, x + lane) * sums + i] += part[i][lane];
            }
        for (int down = 0; down < R; ++down)
            for (int i = 0; i < sums; ++i)
                table[((down * side + group) * side + R - 1) * sums + i] += sum(middle[down][i]);
    }
}

template <int R, int COUNT>
void store_cells(const Maps& maps, const V* stencil, int y, int x, double* out) {
    V values[COUNT];
    apply_stencil<R, COUNT>(maps, stencil, y, x, values);
    for (int row = 0; row < COUNT; ++row) store(out + Index(y + row) * maps.width + x, values[row], maps.width - x);
}

// Adds the stencil of a group of cells: what they bring to every window that they lie in.
template <int R>
void add_stencil(const double* matrix, const double* offset, double by_entropy, int row, int column, double* stencil) {
    constexpr int side = Window<R>::side;
    for (int y = std::max(0, row - R + 1); y <= std::min(row, R - 1); ++y)
        for (int x = std::max(0, column - R + 1); x <= std::min(column, R - 1); ++x) {
            const double* factors = matrix + (y * R + x) * Window<R>::places;
            stencil[0] += by_entropy * offset[y * R + x];
            for (int map = 0; map < 2; ++map)
                for (int other_y = 0; other_y < R; ++other_y)
                    for (int other_x = 0; other_x < R; ++other_x) {
                        const int down = other_y - y + R - 1, across = other_x - x + R - 1;
                        stencil[1 + (map * side + down) * side + across] += by_entropy * *factors++;
                    }
        }
}

// The derivative by the first map, [height, width].
template <int R>
void apply(const Maps& maps, const double* matrix, const double* offset, double by_entropy, double* out) {
    constexpr int side = Window<R>::side, size = Window<R>::stencil;
    std::vector<double> stencils(Window<R>::groups * size);
    for (int row = 0; row < side; ++row)
        for (int column = 0; column < side; ++column)
            add_stencil<R>(matrix, offset, by_entropy, row, column, stencils.data() + (row * side + column) * size);
    for (int x = 0; x < maps.width; x += WIDTH)
        for (int group = 0; group < side; ++group) {
            const double* of_rows = stencils.data() + group * side * size;
            V stencil[size];
            for (int i = 0; i < size; ++i) stencil[i] = V{} + of_rows[(R - 1) * size + i];
            for (int lane = 0; lane < WIDTH; ++lane) {
                const int column = group_of(R, maps.width, std::min(x + lane, maps.width - 1));
                for (int i = 0; i < size && column != R - 1; ++i) stencil[i][lane] = of_rows[column * size + i];
            }
            int y = group_start(R, maps.height, group);
            const int last = group_start(R, maps.height, group + 1);
            for (; y + ROWS <= last; y += ROWS) store_cells<R, ROWS>(maps, stencil, y, x, out);
            for (; y < last; ++y) store_cells<R, 1>(maps, stencil, y, x, out);
        }
}

template <int R>
void entropy(const Maps& maps, double scale, double ridge, double* entropy, double* matrix, double* offset) {
    constexpr int places = Window<R>::places;
    std::vector<double> table(R * Window<R>::groups * Window<R>::sums), scratch(2 * places * places + places);
    const double count = double(maps.height - R + 1) * (maps.width - R + 1);
    fill_table<R>(maps, table.data());
    entropy_of<R>(table.data(), count, scale, ridge, entropy, matrix, offset, scratch.data());
}

constexpr decltype(&entropy<1>) ENTROPY[] = {entropy<1>, entropy<2>, entropy<3>, entropy<4>, entropy<5>};
constexpr decltype(&apply<1>) APPLY[] = {apply<1>, apply<2>, apply<3>, apply<4>, apply<5>};

// Calls a function with every pair of maps, and its number.
template <class T, class Function>
void for_pairs(const T* first, const T* second, Index batch, int height, int width, int radius, int threads,
               Function function) {
    const Index size = Index(height) * width;
#pragma omp parallel num_threads(threads)
    {
        Maps maps(height, width, radius);
#pragma omp for schedule(dynamic)
        for (Index b = 0; b < batch; ++b) {
            maps.fill(0, first + b * size);
            maps.fill(1, second + b * size);
            function(maps, b);
        }
    }
}

}  // namespace

// Maps: [batch, height, width]; entropy: [batch], matrix: [batch, area, places], offset: [batch, area].
#define ENTROPIES(T)                                                                                                   \
    extern "C" void entropies_##T(const T* first, const T* second, Index batch, int height, int width, int radius,     \
                                  double scale, double ridge, double* entropy, double* matrix, double* offset,         \
                                  int threads) {                                                                       \
        const Index area = radius * radius;                                                                            \
        for_pairs(first, second, batch, height, width, radius, threads, [=](const Maps& maps, Index b) {               \
            ENTROPY[radius - 1](maps, scale, ridge, entropy + b, matrix + b * 2 * area * area, offset + b * area);     \
        });                                                                                                            \
    }                                                                                                                  \
    extern "C" void entropies_backward_##T(const T* first, const T* second, Index batch, int height, int width,        \
                                           int radius, const double* matrix, const double* offset,                     \
                                           const double* by_entropy, T* out, int threads) {                            \
        const Index area = radius * radius, size = Index(height) * width;                                              \
        for_pairs(first, second, batch, height, width, radius, threads, [=](const Maps& maps, Index b) {               \
            std::vector<double> result(size);                                                                          \
            APPLY[radius - 1](maps, matrix + b * 2 * area * area, offset + b * area, by_entropy[b], result.data());    \
            std::copy_n(result.data(), size, out + b * size);                                                          \
        });                                                                                                            \
    }

ENTROPIES(float)
ENTROPIES(double)
