// Sums of products over the R x R windows of pairs of maps, on the CPU, in double precision.
//
// maps are [batch, 2, height, width]; a window is a vector of D = 2 R * R numbers, those of the first map
// before those of the second, row by row. common/kernels/windows.py has the same in PyTorch.
#include <algorithm>
#include <vector>

#include "pack.h"

typedef long long Index;
typedef Vector<double>::type V;

namespace {

constexpr int LANES = sizeof(V) / sizeof(double);
constexpr int UNROLL = 4;  // vectors of windows at a time, so that sums are loaded and stored less often

struct Maps {
    Index height;
    Index width;
    Index radius;
    Index rows() const { return height - radius + 1; }
    Index columns() const { return width - radius + 1; }
    int size() const { return int(2 * radius * radius); }
};

// Windows of one row from a column on, a vector per number of the window; beyond the last column they are 0.
void load_windows(const Maps& m, const double* maps, Index row, Index column, V* windows) {
    for (Index map = 0; map < 2; ++map)
        for (Index down = 0; down < m.radius; ++down) {
            const double* from = maps + (map * m.height + row + down) * m.width + column;
            for (Index right = 0; right < m.radius; ++right)
                *windows++ = load<V>(from + right, m.columns() - column);
        }
}

double sum(V values) {
    double total = 0;
    for (int lane = 0; lane < LANES; ++lane) total += values[lane];
    return total;
}

}  // namespace

// products: [batch, D, D], sums: [batch, D].
extern "C" void products(const double* maps, Index batch, Index height, Index width, Index radius, double* products,
                         double* sums, int threads) {
    const Maps m = {height, width, radius};
    const int size = m.size();
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (Index b = 0; b < batch; ++b) {
        std::vector<V> product(size * size), total(size), window(UNROLL * size);
        for (Index row = 0; row < m.rows(); ++row)
            for (Index column = 0; column < m.columns(); column += UNROLL * LANES) {
                for (int u = 0; u < UNROLL; ++u)
                    load_windows(m, maps + b * 2 * height * width, row, column + u * LANES, window.data() + u * size);
                for (int i = 0; i < size; ++i) {
                    V factor[UNROLL];
                    for (int u = 0; u < UNROLL; ++u) total[i] += factor[u] = window[u * size + i];
                    for (int j = 0; j <= i; ++j) {
                        V more = factor[0] * window[j];
                        for (int u = 1; u < UNROLL; ++u) more += factor[u] * window[u * size + j];
                        product[i * size + j] += more;
                    }
                }
            }
        double* out = products + b * size * size;
        for (int i = 0; i < size; ++i) {
            sums[b * size + i] = sum(total[i]);
            for (int j = 0; j <= i; ++j) out[i * size + j] = out[j * size + i] = sum(product[i * size + j]);
        }
    }
}

// The derivative by the first map, [batch, height, width]: of every window `matrix` * window + `offset`, with
// matrix [batch, D / 2, D] and offset [batch, D / 2], goes to the places of its numbers.
extern "C" void products_backward(const double* maps, Index batch, Index height, Index width, Index radius,
                                  const double* matrix, const double* offset, double* out, int threads) {
    const Maps m = {height, width, radius};
    const int size = m.size();
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (Index b = 0; b < batch; ++b) {
        std::vector<V> window(size);
        double* result = out + b * height * width;
        std::fill_n(result, height * width, 0.0);
        for (Index row = 0; row < m.rows(); ++row)
            for (Index column = 0; column < m.columns(); column += LANES) {
                load_windows(m, maps + b * 2 * height * width, row, column, window.data());
                const Index count = m.columns() - column;
                for (int i = 0; i < size / 2; ++i) {
                    const double* factors = matrix + (b * size / 2 + i) * size;
                    V value = V{} + offset[b * size / 2 + i];
                    for (int j = 0; j < size; ++j) value += factors[j] * window[j];
                    double* to = result + (row + i / radius) * width + column + i % radius;
                    store(to, load<V>(to, count) + value, count);
                }
            }
    }
}
