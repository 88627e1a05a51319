// Binary cross-entropy and sigmoids summed over squares of pixels, in one pass over logits, and their derivative in
// another; on the CPU, a vector of numbers at a time. sigmoids.h says how they lie.
#include <algorithm>
#include <vector>

#define DEVICE

#include "pack.h"
#include "sigmoids.h"

namespace {

// log(1 + x) for x >= 0, to the last digit of x.
template <class V>
V log_of_one_plus(V x) {
    const V shifted = 1 + x, exact = shifted - 1;
    return exact == 0 ? x : logarithm(shifted) * (x / exact);
}

// exp(-|x|), of which 1 / (1 + exp(-x)) and log(1 + exp(x)) are made.
template <class V>
V decay(V x) {
    return exponential(x < 0 ? x : -x);
}

// Numbers from memory; beyond them the sigmoid is 0.
template <class V, class T>
V load_logits(const T* from, Index count) {
    constexpr Index W = sizeof(V) / sizeof(T);
    V x = V{} - T(1000);
    if (count >= W)
        std::memcpy(&x, from, sizeof(V));
    else
        std::memcpy(&x, from, count * sizeof(T));
    return x;
}

// A sum of log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|)): one logarithm of a product of many of the last terms.
template <class T>
class SoftplusSum {
    typedef typename Vector<T>::type V;
    static constexpr int W = sizeof(V) / sizeof(T), FACTORS = 64;  // of at most 2, so nothing overflows
    V positive = {}, product = {};  // the product less 1, so that no digit is lost
    int factors = 0;
    double sum = 0;

    void collect() {
        const V logarithms = log_of_one_plus(product);
        for (int lane = 0; lane < W; ++lane) sum += double(positive[lane]) + double(logarithms[lane]);
        positive = product = V{};
        factors = 0;
    }

   public:
    void add(V x, V factor) {
        positive += x > 0 ? x : V{};
        product += product * factor + factor;
        if (++factors == FACTORS) collect();
    }

    double total() {
        collect();
        return sum;
    }
};

// A row of cells of an image, and its pixels that have a class.
struct Tile {
    struct Span {
        int y, first, last;
    };

    Tile(const Pixels& p, const Index* labels, Index number) : p(p) {
        const int cells = cells_along(p, p.height);
        image = number / cells;
        row = int(number % cells);
        first = std::max(0, row * p.side - p.padding);
        last = std::min(p.height, row * p.side - p.padding + p.side);
        this->labels = labels + image * pixels_of(p);
        for (int y = first; y < last; ++y)
            for (int x = 0; x < p.width; ++x) {
                if (label(y, x) < 0) continue;
                if (spans.empty() || spans.back().y != y || spans.back().last != x) spans.push_back({y, x, x});
                ++spans.back().last;
            }
    }

    int label(int y, int x) const { return class_of(p, labels[Index(y) * p.width + x]); }
    // A line are the numbers of a row of pixels that lie together: of all classes, or of one.
    int lines() const { return p.together ? 1 : p.classes; }
    Index at(int line, int y, int x) const {
        return image * p.classes * pixels_of(p) + line * pixels_of(p) + (Index(y) * p.width + x) * pixel_step(p);
    }
    Index cell(int label, int column) const {
        return ((image * p.classes + label) * p.rows + row) * p.columns + column;
    }

    const Pixels& p;
    const Index* labels;
    Index image;
    int row, first, last;
    std::vector<Span> spans;
};

template <class T>
void add_line(const T* from, Index count, T* columns, SoftplusSum<T>& sum) {
    typedef typename Vector<T>::type V;
    constexpr Index W = sizeof(V) / sizeof(T);
    for (Index i = 0; i < count; i += W) {
        const V x = load_logits<V>(from + i, count - i), factor = decay(x), part = 1 / (1 + factor);
        sum.add(x, factor);
        if (columns) store(columns + i, load<V>(columns + i, count - i) + (x < 0 ? factor * part : part), count - i);
    }
}

// Sums of the columns of a tile over its cells; every pixel brings `floor` more.
template <class T>
void pool(const Tile& tile, int line, const T* columns, double floor, T* predicted) {
    const Pixels& p = tile.p;
    const Index step = pixel_step(p);
    std::vector<T> sums(step);
    for (int column = 0; column < p.columns; ++column) {
        const int first = std::max(0, column * p.side - p.padding);
        const int last = std::min(p.width, column * p.side - p.padding + p.side);
        std::fill(sums.begin(), sums.end(), T(floor * (last - first) * (tile.last - tile.first)));
        for (int x = first; x < last; ++x)
            for (int k = 0; k < step; ++k) sums[k] += columns[x * step + k];
        for (int k = 0; k < step; ++k) predicted[tile.cell(line + k, column)] = sums[k];
    }
}

template <class T>
double forward_tile(const Tile& tile, const T* logits, double floor, T* predicted, T* truth) {
    const Pixels& p = tile.p;
    const bool pooled = predicted && tile.row < p.rows;
    const Index step = pixel_step(p);
    std::vector<T> columns(pooled ? p.width * step : 0);
    SoftplusSum<T> sum;
    for (int line = 0; line < tile.lines(); ++line) {
        std::fill(columns.begin(), columns.end(), T(0));
        for (const Tile::Span& s : tile.spans)
            add_line(logits + tile.at(line, s.y, s.first), (s.last - s.first) * step,
                     pooled ? columns.data() + s.first * step : nullptr, sum);
        if (pooled) pool(tile, line, columns.data(), floor, predicted);
    }
    double total = sum.total();
    if (pooled)
        for (int label = 0; label < p.classes; ++label) std::fill_n(truth + tile.cell(label, 0), p.columns, T(0));
    for (const Tile::Span& s : tile.spans)
        for (int x = s.first; x < s.last; ++x) {
            const int label = tile.label(s.y, x), column = (x + p.padding) / p.side;
            total -= logits[tile.at(0, s.y, x) + label * class_step(p)];
            if (pooled && column < p.columns) truth[tile.cell(label, column)] += 1;
        }
    return total;
}

// The derivative by the sums of cells, for the pixels of one line.
template <class T>
void spread(const Tile& tile, int line, const T* by_predicted, T* pixels) {
    const Pixels& p = tile.p;
    const Index step = pixel_step(p);
    std::fill_n(pixels, p.width * step, T(0));
    for (int column = 0; column < p.columns; ++column) {
        const int first = std::max(0, column * p.side - p.padding);
        const int last = std::min(p.width, column * p.side - p.padding + p.side);
        for (int k = 0; k < step; ++k) {
            const T value = by_predicted[tile.cell(line + k, column)];
            for (int x = first; x < last; ++x) pixels[x * step + k] = value;
        }
    }
}

template <class T>
void backward_line(const T* from, Index count, T by_total, const T* by_pixels, T* out) {
    typedef typename Vector<T>::type V;
    constexpr Index W = sizeof(V) / sizeof(T);
    for (Index i = 0; i < count; i += W) {
        const V x = load_logits<V>(from + i, count - i), factor = decay(x), part = 1 / (1 + factor);
        V result = by_total * (x < 0 ? factor * part : part);
        if (by_pixels) result += load<V>(by_pixels + i, count - i) * (factor * part * part);
        store(out + i, result, count - i);
    }
}

template <class T>
void backward_tile(const Tile& tile, const T* logits, T by_total, const T* by_predicted, T* out) {
    const Pixels& p = tile.p;
    const bool pooled = by_predicted && tile.row < p.rows;
    const Index step = pixel_step(p);
    std::vector<T> by_pixels(pooled ? p.width * step : 0);
    for (int line = 0; line < tile.lines(); ++line) {
        if (pooled) spread(tile, line, by_predicted, by_pixels.data());
        auto span = tile.spans.begin();
        for (int y = tile.first; y < tile.last; ++y) {
            int x = 0;
            for (; span != tile.spans.end() && span->y == y; ++span) {
                const Index at = tile.at(line, y, span->first);
                std::fill(out + tile.at(line, y, x), out + at, T(0));
                backward_line(logits + at, (span->last - span->first) * step, by_total,
                              pooled ? by_pixels.data() + span->first * step : nullptr, out + at);
                x = span->last;
            }
            std::fill(out + tile.at(line, y, x), out + tile.at(line, y, p.width), T(0));
        }
    }
    for (const Tile::Span& s : tile.spans)
        for (int x = s.first; x < s.last; ++x)
            out[tile.at(0, s.y, x) + tile.label(s.y, x) * class_step(p)] -= by_total;
}

// value: the cross-entropy over (valid + 1); valid: the pixels that have a class.
template <class T>
void forward(const Pixels& p, const T* logits, const Index* labels, double floor, T* predicted, T* truth, T* value,
             double* valid, int threads) {
    const Index tiles = Index(p.images) * cells_along(p, p.height);
    std::vector<double> totals(tiles);
    std::vector<Index> counts(tiles);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (Index i = 0; i < tiles; ++i) {
        const Tile tile(p, labels, i);
        totals[i] = forward_tile(tile, logits, floor, predicted, truth);
        for (const Tile::Span& s : tile.spans) counts[i] += s.last - s.first;
    }
    double total = 0;
    *valid = 0;
    for (Index i = 0; i < tiles; ++i) {
        total += totals[i];
        *valid += double(counts[i]);
    }
    *value = T(total / (*valid + 1));
}

template <class T>
void backward(const Pixels& p, const T* logits, const Index* labels, double by_total, const T* by_predicted, T* out,
              int threads) {
    const Index tiles = Index(p.images) * cells_along(p, p.height);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (Index i = 0; i < tiles; ++i) backward_tile(Tile(p, labels, i), logits, T(by_total), by_predicted, out);
}

}  // namespace

// predicted, truth: [images, classes, rows, columns], or none; labels: [images, height, width].
#define SIGMOIDS(T)                                                                                                   \
    extern "C" void forward_##T(const Pixels* p, const T* logits, const Index* labels, double floor, T* predicted,    \
                                T* truth, T* value, double* valid, int threads) {                                     \
        forward(*p, logits, labels, floor, predicted, truth, value, valid, threads);                                  \
    }                                                                                                                 \
    extern "C" void backward_##T(const Pixels* p, const T* logits, const Index* labels, double by_total,              \
                                 const T* by_predicted, T* out, int threads) {                                        \
        backward(*p, logits, labels, by_total, by_predicted, out, threads);                                           \
    }

SIGMOIDS(float)
SIGMOIDS(double)
