// Counts of one image, by one thread; common/scoring says what is counted.
#include <algorithm>
#include <array>
#include <bitset>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace {

using Index = std::int64_t;
using Byte = std::uint8_t;
using Short = std::uint16_t;
using Count = std::int32_t;

constexpr Byte VOID = 255;
constexpr int LABELS = 256;  // of tables: so no label, legal or not, lies outside of one
using Histogram = std::array<Count, LABELS>;
using Plane = std::vector<Byte>;

struct Shape {
    Index height;
    Index width;
    Index size() const { return height * width; }
};

// Where a label differs from its neighbours: from one of the four, or from one of the eight or the outside.
struct Edges {
    Plane four;
    Plane eight;
};

Edges edges_of(const Byte* labels, Shape shape) {
    Plane across(shape.size(), 0), four(shape.size()), eight(shape.size(), 1);
    for (Index y = 0; y < shape.height; ++y) {
        const Byte* row = labels + y * shape.width;
        Byte* out = across.data() + y * shape.width;
        for (Index x = 1; x < shape.width; ++x) out[x] = row[x] != row[x - 1];
        for (Index x = 0; x + 1 < shape.width; ++x) out[x] |= row[x] != row[x + 1];
    }
    for (Index y = 0; y < shape.height; ++y) {
        const Index here = y * shape.width;
        const Index above = y > 0 ? here - shape.width : here;
        const Index below = y + 1 < shape.height ? here + shape.width : here;
        for (Index x = 0; x < shape.width; ++x) {
            const Byte own = labels[here + x];
            four[here + x] = across[here + x] | (own != labels[above + x]) | (own != labels[below + x]);
        }
        if (above == here || below == here) continue;  // the first and the last row touch the outside
        for (Index x = 1; x + 1 < shape.width; ++x)
            eight[here + x] = four[here + x] | across[above + x] | across[below + x];
    }
    return {four, eight};
}

// How far the nearest edge of its column is from every pixel, at most `reach`.
std::vector<Short> column_distances(const Plane& edges, Shape shape, Short reach) {
    std::vector<Short> distances(shape.size()), last(shape.width, reach);
    const auto pass = [&](Index y, bool back) {
        const Byte* edge = edges.data() + y * shape.width;
        Short* out = distances.data() + y * shape.width;
        for (Index x = 0; x < shape.width; ++x) {
            last[x] = edge[x] ? 0 : std::min<Short>(last[x] + 1, reach);
            out[x] = back ? std::min(out[x], last[x]) : last[x];
        }
    };
    for (Index y = 0; y < shape.height; ++y) pass(y, false);
    std::fill(last.begin(), last.end(), reach);
    for (Index y = shape.height; y-- > 0;) pass(y, true);
    return distances;
}

// The pixels less than `width` rows and columns from an edge.
Plane band_of(const Plane& edges, Shape shape, Short width) {
    const Index reach = width - 1;
    const std::vector<Short> distances = column_distances(edges, shape, width);
    Plane band(shape.size()), row(shape.width + 2 * reach, 0);
    for (Index y = 0; y < shape.height; ++y) {
        const Short* distance = distances.data() + y * shape.width;
        std::fill(row.begin(), row.end(), 0);
        for (Index x = 0; x < shape.width; ++x) row[reach + x] = distance[x] < width;
        // A pixel stands for itself and so many to its right, until these are all that it can see.
        for (Index seen = 1; seen < 2 * reach + 1;) {
            const Index more = std::min(seen, 2 * reach + 1 - seen);
            Byte* first = row.data();
#pragma GCC ivdep
            for (Index x = 0; x < Index(row.size()) - more; ++x) first[x] |= first[x + more];
            seen += more;
        }
        std::copy_n(row.data(), shape.width, band.data() + y * shape.width);
    }
    return band;
}

// Squared distances to the nearest edge, at most `reach` squared, of the pixels of a row.
class SquaredDistances {
   public:
    SquaredDistances(const Plane& edges, Shape shape, Short reach)
        : shape(shape), reach(reach), columns(column_distances(edges, shape, reach)),
          padded(shape.width + 2 * reach), row(shape.width) {}

    // Null if none is smaller than `reach` squared.
    const Short* at(Index y) {
        const Short* column = columns.data() + y * shape.width;
        const Short most = reach * reach;
        if (*std::min_element(column, column + shape.width) == reach) return nullptr;
        std::fill(padded.begin(), padded.end(), most);
        for (Index x = 0; x < shape.width; ++x) padded[reach + x] = column[x] * column[x];
        std::fill(row.begin(), row.end(), most);
        for (Index right = 1 - reach; right < reach; ++right) {
            const Short* from = padded.data() + reach + right;
            const Short square = right * right;
            for (Index x = 0; x < shape.width; ++x) row[x] = std::min<Short>(row[x], from[x] + square);
        }
        return row.data();
    }

   private:
    Shape shape;
    Short reach;
    std::vector<Short> columns, padded, row;
};

// Hits, truth and prediction of every class in the bands of the truth, [rings, 3, classes].
void trimap_counts(const Byte* predicted, const Byte* labels, const Plane& edges, Shape shape, Index classes,
                   const Count* widths, Index rings, Count* out) {
    const Short reach = widths[rings - 1];
    std::vector<Byte> ring_of(reach * reach);
    for (Index square = 0, ring = 0; square < Index(ring_of.size()); ++square) {
        while (square >= Index(widths[ring]) * widths[ring]) ++ring;
        ring_of[square] = ring;
    }
    std::vector<std::array<Histogram, 3>> counts(rings);
    SquaredDistances distances(edges, shape, reach);
    for (Index y = 0; y < shape.height; ++y) {
        const Short* squares = distances.at(y);
        if (!squares) continue;
        for (Index x = 0; x < shape.width; ++x) {
            if (squares[x] >= reach * reach) continue;
            const Byte truth = labels[y * shape.width + x], guess = predicted[y * shape.width + x];
            auto& ring = counts[ring_of[squares[x]]];
            ring[0][truth] += truth == guess;
            ++ring[1][truth];
            ++ring[2][guess];
        }
    }
    for (Index ring = 0; ring < rings; ++ring)
        for (Index kind = 0; kind < 3; ++kind)
            for (Index k = 0; k < classes; ++k) {
                Count* place = out + (ring * 3 + kind) * classes + k;
                *place = counts[ring][kind][k] + (ring ? *(place - 3 * classes) : 0);
            }
}

// Intersection and union of the bands along the boundaries of both maps, [2, classes].
void band_counts(const Byte* predicted, const Byte* labels, const Plane& around_predicted,
                 const Plane& around_labels, Index size, Index classes, Count* out) {
    Histogram both{}, either{};
    for (Index i = 0; i < size; ++i) {
        if (!(around_predicted[i] | around_labels[i])) continue;
        if (around_predicted[i] & around_labels[i] & (predicted[i] == labels[i])) {
            ++both[labels[i]];
            ++either[labels[i]];
        } else {
            either[predicted[i]] += around_predicted[i];
            either[labels[i]] += around_labels[i];
        }
    }
    std::copy_n(both.data(), classes, out);
    std::copy_n(either.data(), classes, out + classes);
}

// The labels of contour pixels; all other pixels are void, and so are margins of `radius` on all sides.
class Lines {
   public:
    Lines(const Byte* labels, const Plane& edges, Shape shape, Index radius)
        : shape(shape), radius(radius), stride(shape.width + 2 * radius),
          pixels((shape.height + 2 * radius) * stride, VOID), labels_of_row(shape.height + 2 * radius) {
        for (Index y = 0; y < shape.height; ++y)
            for (Index x = 0; x < shape.width; ++x) {
                const Byte label = labels[y * shape.width + x];
                if (!edges[y * shape.width + x] || label == VOID) continue;
                pixels[(radius + y) * stride + radius + x] = label;
                labels_of_row[radius + y].set(label);
                all_labels.set(label);
            }
    }

    const Byte* row(Index y) const { return pixels.data() + (radius + y) * stride + radius; }

    // Whether a pixel of that label lies in the disc around y, x, of which a row is `halves` long to each side.
    bool near(Index y, Index x, Byte label, const Count* halves) const {
        if (!all_labels[label]) return false;
        for (Index distance = 0; distance <= radius; ++distance)
            if (in_row(y + distance, x, label, halves[distance]) || in_row(y - distance, x, label, halves[distance]))
                return true;
        return false;
    }

   private:
    bool in_row(Index y, Index x, Byte label, Index half) const {
        return labels_of_row[radius + y][label] && std::memchr(row(y) + x - half, label, 2 * half + 1);
    }

    Shape shape;
    Index radius, stride;
    Plane pixels;
    std::vector<std::bitset<LABELS>> labels_of_row;
    std::bitset<LABELS> all_labels;
};

// Pixels of a map's contours, and those of them that are near one of the other map's, [2, classes].
void contour_counts(const Lines& lines, const Lines& others, Shape shape, Index classes, const Count* halves,
                    Count* out) {
    Histogram all{}, matched{};
    for (Index y = 0; y < shape.height; ++y) {
        const Byte *row = lines.row(y), *other = others.row(y);
        for (Index x = 0; x < shape.width; ++x) {
            if (row[x] == VOID) continue;
            ++all[row[x]];
            matched[row[x]] += row[x] == other[x] || others.near(y, x, row[x], halves);
        }
    }
    std::copy_n(all.data(), classes, out);
    std::copy_n(matched.data(), classes, out + classes);
}

// Components of touching pixels of one label, corners included; void is in none.
class Components {
   public:
    Components(const Byte* predicted, const Byte* labels, Shape shape, Index classes) {
        std::vector<Run> above, row;
        for (Index y = 0; y < shape.height; ++y) {
            const Byte *label = labels + y * shape.width, *guess = predicted + y * shape.width;
            row.clear();
            for (Index x = 0, end; x < shape.width; x = end) {
                Count hits = 0;
                for (end = x; end < shape.width && label[end] == label[x]; ++end) hits += guess[end] == label[x];
                if (label[x] >= classes) continue;
                row.push_back({x, end, Index(parts.size())});
                parts.push_back({Index(parts.size()), Count(end - x), hits, label[x]});
            }
            join(above, row);
            std::swap(above, row);
        }
    }

    // Hits and pixels of the components by size, [bounds + 1, 2, classes]: less than a bound, or more than all.
    void count(const Count* bounds, Index number, Index classes, Count* out) {
        for (Index i = 0; i < Index(parts.size()); ++i) {
            const Index root = root_of(i);
            if (root == i) continue;
            parts[root].pixels += parts[i].pixels;
            parts[root].hits += parts[i].hits;
        }
        std::fill_n(out, (number + 1) * 2 * classes, 0);
        for (Index i = 0; i < Index(parts.size()); ++i) {
            const Part& part = parts[i];
            if (part.parent != i) continue;
            const Index size = std::upper_bound(bounds, bounds + number, part.pixels) - bounds;
            out[2 * size * classes + part.label] += part.hits;
            out[(2 * size + 1) * classes + part.label] += part.pixels;
        }
    }

   private:
    struct Run {
        Index begin, end, part;
    };
    struct Part {
        Index parent;
        Count pixels, hits;
        Byte label;
    };

    Index root_of(Index i) {
        while (parts[i].parent != i) i = parts[i].parent = parts[parts[i].parent].parent;
        return i;
    }

    // Joins the runs of a row with those of the row above that they touch; both are in the order of their places.
    void join(const std::vector<Run>& above, const std::vector<Run>& row) {
        auto first = above.begin();
        for (const Run& run : row) {
            while (first != above.end() && first->end < run.begin) ++first;
            for (auto other = first; other != above.end() && other->begin <= run.end; ++other) {
                if (parts[other->part].label != parts[run.part].label) continue;
                const Index one = root_of(other->part), two = root_of(run.part);
                parts[std::max(one, two)].parent = std::min(one, two);
            }
        }
    }

    std::vector<Part> parts;
};

}  // namespace

// predicted, labels: [height, width]; out: hits and pixels of components of the truth by size, [bounds + 1, 2, classes].
extern "C" void object_counts(const Byte* predicted, const Byte* labels, Index height, Index width, Index classes,
                              const Count* bounds, Index number, Count* out) {
    Components(predicted, labels, {height, width}, classes).count(bounds, number, classes, out);
}

// predicted, labels: [height, width]; trimap: [rings, 3, classes], boundary: [2, classes], contour: [4, classes].
extern "C" void boundary_counts(const Byte* predicted, const Byte* labels, Index height, Index width, Index classes,
                                const Count* widths, Index rings, Index band, const Count* halves, Index radius,
                                Count* trimap, Count* boundary, Count* contour) {
    const Shape shape = {height, width};
    Plane painted(shape.size());
    for (Index i = 0; i < shape.size(); ++i) painted[i] = labels[i] == VOID ? VOID : predicted[i];
    const Edges of_predicted = edges_of(painted.data(), shape), of_labels = edges_of(labels, shape);
    trimap_counts(painted.data(), labels, of_labels.four, shape, classes, widths, rings, trimap);
    band_counts(painted.data(), labels, band_of(of_predicted.eight, shape, band),
                band_of(of_labels.eight, shape, band), shape.size(), classes, boundary);
    const Lines ours(painted.data(), of_predicted.four, shape, radius), truth(labels, of_labels.four, shape, radius);
    contour_counts(ours, truth, shape, classes, halves, contour);
    contour_counts(truth, ours, shape, classes, halves, contour + 2 * classes);
}

// Confusion counts [classes, classes], rows are the truth. With probabilities also, of `bins` equal bins of
// confidence, pixels, right ones and the sum of confidence [bins, 3], and the sum of -log p(truth).
extern "C" void pixel_counts(const Byte* predicted, const Byte* labels, const float* confidence,
                             const float* likelihood, Index size, Index classes, Index bins, float smallest,
                             std::int64_t* confusion, double* calibration, double* surprise) {
    for (Index i = 0; i < size; ++i) {
        if (labels[i] >= classes || predicted[i] >= classes) continue;
        ++confusion[labels[i] * classes + predicted[i]];
        if (!confidence) continue;
        const Index bin = std::min(bins, std::max<Index>(1, std::ceil(confidence[i] * bins))) - 1;
        calibration[3 * bin] += 1;
        calibration[3 * bin + 1] += predicted[i] == labels[i];
        calibration[3 * bin + 2] += confidence[i];
        *surprise -= std::log(double(std::max(likelihood[i], smallest)));
    }
}

// Of probabilities whose classes and pixels lie so far apart: the most probable class and its probability, that of
// the truth (of void that of any class), [size] each, and the lowest and the highest sum over classes, which are
// no numbers if a probability is none.
extern "C" void evidence(const float* probabilities, Index class_stride, Index pixel_stride, const Byte* labels,
                         Index size, Index classes, Byte* guess, float* confidence, float* likelihood, float* sums) {
    constexpr Index BLOCK = 256;
    float total[BLOCK], low = std::numeric_limits<float>::infinity(), high = -low;
    Count best[BLOCK];
    bool finite = true;
    for (Index first = 0; first < size; first += BLOCK) {
        const Index count = std::min(BLOCK, size - first);
        const float* begin = probabilities + first * pixel_stride;
        float* highest = confidence + first;
        const auto compare = [&](Index stride) {  // a constant, it makes vectors of neighbours
            for (Index i = 0; i < count; ++i) total[i] = highest[i] = begin[i * stride];
            std::fill_n(best, count, 0);
            for (Index k = 1; k < classes; ++k) {
                const float* values = begin + k * class_stride;
                for (Index i = 0; i < count; ++i) {
                    const float value = values[i * stride];
                    total[i] += value;
                    best[i] = value > highest[i] ? Count(k) : best[i];
                    highest[i] = value > highest[i] ? value : highest[i];
                }
            }
        };
        if (pixel_stride == 1) compare(1); else compare(pixel_stride);
        for (Index i = 0; i < count; ++i) {
            guess[first + i] = best[i];
            const Index truth = std::min<Index>(labels[first + i], classes - 1);
            likelihood[first + i] = begin[i * pixel_stride + truth * class_stride];
            low = std::min(low, total[i]);
            high = std::max(high, total[i]);
            finite &= std::isfinite(total[i]);
        }
    }
    sums[0] = finite ? low : std::numeric_limits<float>::quiet_NaN();
    sums[1] = finite ? high : sums[0];
}
