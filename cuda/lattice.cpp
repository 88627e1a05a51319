// The permutohedral lattice on the CPU: building it, filtering with it, and mean fields (common/kernels/lattice.py,
// common/kernels/mean_field.py). Every sum is taken in the order of the points, whatever the number of threads.
//
// Words and arrays:
//   group      points that see each other alone, such as an image's pixels; each has a lattice of its own
//   corner     a vertex of the simplex that a point lies in; d + 1 of them
//   gather     [groups * points, corners]   the corners, numbered within the group as they first occur
//   weights    [groups * points, corners]   barycentric coordinates
//   neighbours [vertices, corners, 2]       along each direction; those that are missing are the group's number
//              of vertices: the row that stands there is 0
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <vector>

#include "pack.h"

typedef long long Index;

namespace {

constexpr int TOGETHER = 16;            // points whose places are computed side by side
constexpr float FARTHEST = 1048576.0f;  // 2^20, as in Python
constexpr double ROOM = 4611686018427387904.0;  // 2^62, for codes
enum Status { FINE, TOO_FAR, NOT_FINITE };

// ---- Building -----------------------------------------------------------------------------------------------------

// Where a point lies: the simplex' corner of rank 0, but for its last coordinate, and the order of its coordinates.
template <int D>
struct Place {
    int key[D];
    uint8_t rank[D + 1];
};

// The places of up to TOGETHER points [points, D], and their barycentric coordinates.
template <int D>
Status locate(const float* features, int count, Place<D>* places, float* weights) {
    constexpr int L = TOGETHER;
    constexpr float share = 1.0f / (D + 1), whole = 12582912.0f;  // 1.5 * 2^23: adding it leaves whole numbers
    float given[D][L] = {}, elevated[D + 1][L], low[D + 1][L], total[L] = {};
    int rank[D + 1][L] = {};
    for (int l = 0; l < count; ++l)
        for (int i = 0; i < D; ++i) given[i][l] = features[l * D + i];
    for (int j = D; j > 0; --j) {
        const float scale = float(std::sqrt(2.0 / 3) * (D + 1) / std::sqrt(j * (j + 1.0)));
        for (int l = 0; l < L; ++l) {
            const float scaled = given[j - 1][l] * scale;
            elevated[j][l] = total[l] - j * scaled;
            total[l] += scaled;
        }
    }
    std::copy(total, total + L, elevated[0]);
    bool near = true, finite = true;
    for (int i = 0; i <= D; ++i)
        for (int l = 0; l < L; ++l) {
            near = near && std::fabs(elevated[i][l]) <= FARTHEST;
            finite = finite && elevated[i][l] == elevated[i][l];
        }
    if (!near) return finite ? TOO_FAR : NOT_FINITE;
    for (int i = 0; i <= D; ++i)
        for (int l = 0; l < L; ++l) low[i][l] = (elevated[i][l] * share + whole - whole) * (D + 1);
    for (int i = 0; i < D; ++i)
        for (int j = i + 1; j <= D; ++j)
            for (int l = 0; l < L; ++l) {
                const int less = elevated[i][l] - low[i][l] < elevated[j][l] - low[j][l];
                rank[i][l] += less;
                rank[j][l] += 1 - less;
            }
    float sum[L] = {};
    for (int i = 0; i <= D; ++i)
        for (int l = 0; l < L; ++l) sum[l] += low[i][l];
    // Where the rounded point does not lie on the plane of the lattice, it is brought back.
    for (int i = 0; i <= D; ++i)
        for (int l = 0; l < L; ++l) {
            const int moved = rank[i][l] + int(sum[l] * share + whole - whole);
            const int back = (moved < 0) - (moved > D);
            rank[i][l] = moved + (D + 1) * back;
            low[i][l] += float((D + 1) * back);
        }
    for (int l = 0; l < count; ++l) {
        float offset[D + 1];
        for (int i = 0; i <= D; ++i) {
            offset[D - rank[i][l]] = (elevated[i][l] - low[i][l]) * share;
            places[l].rank[i] = uint8_t(rank[i][l]);
        }
        for (int i = 0; i < D; ++i) places[l].key[i] = int(low[i][l]);
        float* weight = weights + l * (D + 1);
        weight[0] = offset[0] + (1 - offset[D]);
        for (int i = 1; i <= D; ++i) weight[i] = offset[i] - offset[i - 1];
    }
    return FINE;
}

// The numbers of codes, as they first occur: open addressing, at most half full.
class Numbers {
   public:
    std::vector<Index> known;

    Numbers() { grow(); }

    int number(Index code) {
        Index at = slot(code);
        if (codes_[at] < 0) {
            if (2 * known.size() >= codes_.size()) {
                grow();
                at = slot(code);
            }
            codes_[at] = code;
            numbers_[at] = int(known.size());
            known.push_back(code);
        }
        return numbers_[at];
    }

    // The number of a code, or how many there are if it is none of them.
    int find(Index code) const {
        const Index at = slot(code);
        return codes_[at] < 0 ? int(known.size()) : numbers_[at];
    }

   private:
    int bits_ = 11;
    std::vector<Index> codes_;
    std::vector<int> numbers_;

    Index slot(Index code) const {
        const Index mask = (Index(1) << bits_) - 1;
        Index at = Index(uint64_t(code) * 0x9E3779B97F4A7C15u >> (64 - bits_));
        while (codes_[at] >= 0 && codes_[at] != code) at = (at + 1) & mask;
        return at;
    }

    void grow() {
        ++bits_;
        codes_.assign(Index(1) << bits_, -1);
        numbers_.resize(Index(1) << bits_);
        for (std::size_t i = 0; i < known.size(); ++i) {
            const Index at = slot(known[i]);
            codes_[at] = known[i];
            numbers_[at] = int(i);
        }
    }
};

// What each coordinate of a key counts in a code.
template <int D>
struct Code {
    int low[D];
    Index stride[D + 1];
    Index sum = 0;
    bool fits = true;

    Code(const Place<D>* places, Index count) {
        constexpr int room = 3 * (D + 1);  // for neighbours
        Index size = 1;
        for (int i = 0; i < D; ++i) {
            int least = std::numeric_limits<int>::max(), most = std::numeric_limits<int>::min();
            for (Index p = 0; p < count; ++p) {
                least = std::min(least, places[p].key[i]);
                most = std::max(most, places[p].key[i]);
            }
            low[i] = least - room;
            stride[i] = size;
            sum += size;
            const Index extent = Index(most) - least + 2 * room + 1;
            fits = fits && double(size) * double(extent) < ROOM;
            size = fits ? size * extent : 1;
        }
        stride[D] = 0;
    }

    // Those of the corners of a simplex.
    void corners(const Place<D>& place, Index* codes) const {
        Index by_rank[D + 1], code = 0;
        for (int i = 0; i < D; ++i) code += stride[i] * (place.key[i] - low[i]);
        for (int i = 0; i <= D; ++i) by_rank[place.rank[i]] = stride[i];
        // Corner r adds r to every coordinate, less D + 1 for the r coordinates of the highest ranks.
        for (int r = 0; r <= D; ++r) {
            codes[r] = code;
            code += sum - (D + 1) * by_rank[D - r];
        }
    }

    // What is added to a code by a step along a direction.
    Index step(int direction) const { return (D + 1) * stride[direction] - sum; }
};

// The lattice of one group: its corners' numbers and its neighbours.
template <int D>
Status number(const Place<D>* places, Index points, int* gather, std::vector<int>& neighbours) {
    const Code<D> code(places, points);
    if (!code.fits) return TOO_FAR;
    Numbers numbers;
    for (Index p = 0; p < points; ++p) {
        Index codes[D + 1];
        code.corners(places[p], codes);
        for (int r = 0; r <= D; ++r) gather[p * (D + 1) + r] = numbers.number(codes[r]);
    }
    const int size = int(numbers.known.size());
    neighbours.assign(Index(size) * (D + 1) * 2, size);
    for (int v = 0; v < size; ++v)
        for (int j = 0; j <= D; ++j) {
            const int next = numbers.find(numbers.known[v] + code.step(j));
            if (next == size) continue;
            neighbours[(Index(v) * (D + 1) + j) * 2] = next;
            neighbours[(Index(next) * (D + 1) + j) * 2 + 1] = v;
        }
    return FINE;
}

typedef std::vector<std::vector<int>> Neighbours;

template <int D>
Status build(const float* features, Index groups, Index points, int* gather, float* weights, Neighbours& neighbours,
             int threads) {
    std::vector<Place<D>> places(groups * points);
    int worst = FINE;
    const Index blocks = (groups * points + TOGETHER - 1) / TOGETHER;
#pragma omp parallel for num_threads(threads) reduction(max : worst)
    for (Index block = 0; block < blocks; ++block) {
        const Index first = block * TOGETHER;
        const int count = int(std::min<Index>(TOGETHER, groups * points - first));
        const Status status = locate<D>(features + first * D, count, places.data() + first, weights + first * (D + 1));
        worst = std::max(worst, int(status));
    }
    if (worst != FINE) return Status(worst);
#pragma omp parallel for num_threads(threads) schedule(dynamic) reduction(max : worst)
    for (Index g = 0; g < groups; ++g) {
        int* const corners = gather + g * points * (D + 1);
        const Status status = number<D>(places.data() + g * points, points, corners, neighbours[g]);
        worst = std::max(worst, int(status));
    }
    return Status(worst);
}

// ---- Filtering ----------------------------------------------------------------------------------------------------

}  // namespace

// Lattices as Python gives them. `groups` is 1 where all images have the same one. Values are multiplied by `before`
// of their point, and what comes out by `after`; either may be null.
struct Lattice {
    int corners;
    Index groups;
    Index points;
    const Index* first;  // vertex of a group, [groups + 1]
    const int* gather;
    const float* weights;
    const int* neighbours;
    const float* before;
    const float* after;
};

namespace {

// Room for vectors, aligned for them.
template <class V>
struct Scratch {
    V* memory;
    explicit Scratch(Index size)
        : memory(static_cast<V*>(std::aligned_alloc(64, (size * sizeof(V) + 63) / 64 * 64))) {}
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch() { std::free(memory); }
};

// One group's lattice and the values at its vertices: vector b of a vertex is at vertex * row + b * plane.
template <class T, class V>
struct Field {
    int corners;
    Index size;
    const int* gather;
    const float* weights;
    const int* neighbours;
    const float* before;
    const float* after;
    T constant;  // what the blur adds up to, in the reference's approximation
    V* values;
    V* other;
    Index row;
    Index plane;

    Field(const Lattice& lattice, Index image, bool reverse, V* memory, Index blocks, bool by_planes)
        : corners(lattice.corners) {
        const Index group = lattice.groups == 1 ? 0 : image, from = group * lattice.points;
        size = lattice.first[group + 1] - lattice.first[group];
        gather = lattice.gather + from * corners;
        weights = lattice.weights + from * corners;
        neighbours = lattice.neighbours + lattice.first[group] * corners * 2;
        const float* const first = reverse ? lattice.after : lattice.before;
        const float* const last = reverse ? lattice.before : lattice.after;
        before = first ? first + from : nullptr;
        after = last ? last + from : nullptr;
        constant = T(1 / (1 + std::pow(2.0, -(corners - 1))));
        values = memory;
        other = memory + (size + 1) * blocks;
        row = by_planes ? 1 : blocks;
        plane = by_planes ? size + 1 : 1;
    }

    // How many vectors the values at the vertices take, of the largest of all groups.
    static Index room(const Lattice& lattice, Index blocks) {
        Index most = 0;
        for (Index g = 0; g < lattice.groups; ++g) most = std::max(most, lattice.first[g + 1] - lattice.first[g]);
        return 2 * (most + 1) * blocks;
    }

    void clear(Index b, Index count) {
        for (Index v = 0; v <= size; ++v)
            for (Index i = b; i < b + count; ++i) values[v * row + i * plane] = V{};
    }

    T factor(Index p) const { return after ? T(after[p]) * constant : constant; }

    // Spreads B vectors of a point, from the b-th on, over its corners.
    template <int B>
    void splat(Index p, const V* given, Index b, Index count) {
        const T share = before ? T(before[p]) : T(1);
        for (int c = 0; c < corners; ++c) {
            const T weight = T(weights[p * corners + c]) * share;
            V* const to = values + gather[p * corners + c] * row + b * plane;
            for (Index i = 0; i < (B ? B : count); ++i) to[i * plane] += weight * given[i];
        }
    }

    // Adds up what a point's corners have.
    template <int B>
    void slice(Index p, V* sums, Index b, Index count) const {
        for (Index i = 0; i < (B ? B : count); ++i) sums[i] = V{};
        for (int c = 0; c < corners; ++c) {
            const T weight = T(weights[p * corners + c]);
            const V* const from = values + gather[p * corners + c] * row + b * plane;
            for (Index i = 0; i < (B ? B : count); ++i) sums[i] += weight * from[i * plane];
        }
    }

    // Blurs some vectors of all vertices along all directions. The result is in `to` if their number is odd.
    template <int B>
    void blur(bool reverse, Index b, Index count) {
        V *from = values, *to = other;
        for (Index i = b; i < b + (B ? B : count); ++i) other[size * row + i * plane] = V{};
        for (int j = 0; j < corners; ++j, std::swap(from, to)) {
            const int* at = neighbours + 2 * (reverse ? corners - 1 - j : j);
            for (Index v = 0; v < size; ++v, at += 2 * corners) {
                const V* const one = from + at[0] * row + b * plane;
                const V* const two = from + at[1] * row + b * plane;
                const V* const here = from + v * row + b * plane;
                V* const result = to + v * row + b * plane;
                for (Index i = 0; i < (B ? B : count); ++i)
                    result[i * plane] = here[i * plane] + T(0.5) * (one[i * plane] + two[i * plane]);
            }
        }
    }

    // After the blur of all vectors.
    void turn() {
        if (corners % 2) std::swap(values, other);
    }
};

// The values of the points of each image [images * points, columns], filtered.
template <class T, class V = typename Vector<T>::type>
void filter(const Lattice& lattice, bool reverse, const T* values, T* out, Index images, Index columns, int threads) {
    constexpr Index W = sizeof(V) / sizeof(T);
    const Index blocks = (columns + W - 1) / W, room = Field<T, V>::room(lattice, 1);
#pragma omp parallel num_threads(threads)
    {
        const Scratch<V> scratch(room);
#pragma omp for schedule(dynamic) collapse(2)
        for (Index image = 0; image < images; ++image)
            for (Index block = 0; block < blocks; ++block) {
                Field<T, V> field(lattice, image, reverse, scratch.memory, 1, false);
                const Index first = image * lattice.points * columns + block * W, count = columns - block * W;
                field.clear(0, 1);
                for (Index p = 0; p < lattice.points; ++p) {
                    const V given = load<V>(values + first + p * columns, count);
                    field.template splat<1>(p, &given, 0, 1);
                }
                field.template blur<1>(reverse, 0, 1);
                field.turn();
                for (Index p = 0; p < lattice.points; ++p) {
                    V sum;
                    field.template slice<1>(p, &sum, 0, 1);
                    store(out + first + p * columns, field.factor(p) * sum, count);
                }
            }
    }
}

// ---- Mean fields --------------------------------------------------------------------------------------------------

// In every lane what `combine` makes of all lanes, in a fixed order.
template <class V, class Combine>
V over_lanes(V values, Combine combine) {
    constexpr int W = sizeof(V) / sizeof(typename ByBits<V>::number);
    const auto lanes = std::make_index_sequence<W>();
#pragma GCC unroll 8
    for (int round = 1; round < W; round *= 2)
        values = combine(interleaved<false>(values, values, lanes), interleaved<true>(values, values, lanes));
    return values;
}

template <class T>
struct Smallest;  // differences of scores below it are as good as minus infinity: no denormal numbers come of them
template <>
struct Smallest<float> {
    static constexpr float value = -69;
};
template <>
struct Smallest<double> {
    static constexpr double value = -600;
};

// The softmax of a row of vectors, in place; lanes of no label have minus infinity.
template <int B, class V>
void softmax(V* row, Index count) {
    typedef typename ByBits<V>::number T;
    const Index blocks = B ? B : count;
    V top = row[0];
    for (Index b = 1; b < blocks; ++b) top = row[b] > top ? row[b] : top;
    top = over_lanes(top, [](V a, V b) { return a > b ? a : b; });
    V sum = V{};
    for (Index b = 0; b < blocks; ++b) {
        const V below = row[b] - top;
        row[b] = below < Smallest<T>::value ? V{} : exponential(below);
        sum += row[b];
    }
    const V share = T(1) / over_lanes(sum, [](V a, V b) { return a + b; });
    for (Index b = 0; b < blocks; ++b) row[b] *= share;
}

}  // namespace

// How a mean field is updated: `weights` are a number per lattice, or, of `matrices`, [lattices, labels, labels].
struct Updates {
    int lattices;
    int matrices;
    int iterations;
    int marginals;  // whether they are wanted in the end, not scores
    Index images;
    Index labels;
};

namespace {

// The mean field of one image.
template <class T, int B, class V = typename Vector<T>::type>
class Image {
    static constexpr Index W = sizeof(V) / sizeof(T);
    const Updates& updates_;
    const Index points_, more_;  // vectors of a row, where B is 0
    const T* weights_;   // numbers
    const V* columns_;   // or matrices [lattices, labels, blocks], a row for each sender's label
    std::vector<Field<T, V>> fields_;
    V* rows_;            // unary scores [points, blocks], in the end the scores
    V* marginals_;       // [points, blocks]; null where one thread takes the whole image

   public:
    Image(const Lattice* lattices, const Updates& updates, Index image, const T* weights, const V* columns, V* memory,
          bool alone)
        : updates_(updates), points_(lattices->points), more_(B ? 0 : (updates.labels + W - 1) / W),
          weights_(weights), columns_(columns), rows_(memory) {
        memory += points_ * blocks();
        marginals_ = alone ? nullptr : memory;
        memory += alone ? 0 : points_ * blocks();
        for (int k = 0; k < updates.lattices; ++k) {
            fields_.emplace_back(lattices[k], image, false, memory, blocks(), !alone);
            memory += Field<T, V>::room(lattices[k], blocks());
        }
    }

    static Index room(const Lattice* lattices, const Updates& updates, bool alone) {
        const Index blocks = B ? B : (updates.labels + W - 1) / W;
        Index size = lattices->points * blocks * (alone ? 1 : 2);
        for (int k = 0; k < updates.lattices; ++k) size += Field<T, V>::room(lattices[k], blocks);
        return size;
    }

    // From unary scores [labels, points] to scores, or marginals, [labels, points].
    // kept: [iterations, `step` numbers], or null.
    void solve(const T* unary, T* scores, T* kept, Index step, int threads) {
        pack(unary, threads);
        for (int n = 0; n <= updates_.iterations; ++n) {
            const bool last = n == updates_.iterations;
            T* const marginals = kept && !last ? kept + n * step : nullptr;
            if (marginals_)
                apart(n > 0, last, marginals, threads);
            else
                at_once(n > 0, last, marginals);
        }
        unpack(scores, threads);
    }

   private:
    Index blocks() const { return B ? B : more_; }

    // By one thread: values are gathered, turned into marginals and spread again point by point.
    void at_once(bool informed, bool last, T* kept) {
        V local[B ? 2 * B : 1];
        std::vector<V> more(B ? 0 : 2 * blocks());
        V* const row = B ? local : more.data();
        std::vector<Field<T, V>> next = fields_;
        for (Field<T, V>& field : next) std::swap(field.values, field.other);
        for (Field<T, V>& field : next)
            if (!last) field.clear(0, blocks());
        for (Index p = 0; p < points_; ++p) {
            update(p, informed, row, row + blocks());
            if (!last || updates_.marginals) softmax<B>(row, blocks());
            if (last) {
                std::copy(row, row + blocks(), rows_ + p * blocks());
                continue;
            }
            if (kept) keep(row, kept + p * updates_.labels);
            for (Field<T, V>& field : next) field.template splat<B>(p, row, 0, blocks());
        }
        if (last) return;
        fields_ = next;
        for (Field<T, V>& field : fields_) {
            field.template blur<B>(false, 0, blocks());
            field.turn();
        }
    }

    // By several threads: points side by side, then the lattices' vectors.
    void apart(bool informed, bool last, T* kept, int threads) {
#pragma omp parallel num_threads(threads)
        {
            std::vector<V> scratch(2 * blocks());
            V* const row = scratch.data();
#pragma omp for
            for (Index p = 0; p < points_; ++p) {
                update(p, informed, row, row + blocks());
                if (!last || updates_.marginals) softmax<B>(row, blocks());
                std::copy(row, row + blocks(), (last ? rows_ : marginals_) + p * blocks());
                if (kept) keep(row, kept + p * updates_.labels);
            }
            const Index tasks = last ? 0 : updates_.lattices * blocks();
#pragma omp for schedule(dynamic)
            for (Index task = 0; task < tasks; ++task) {
                // The last lattice is the largest: it is begun first.
                Field<T, V>& field = fields_[updates_.lattices - 1 - task / blocks()];
                const Index b = task % blocks();
                field.clear(b, 1);
                for (Index p = 0; p < points_; ++p) field.template splat<1>(p, marginals_ + p * blocks() + b, b, 1);
                field.template blur<1>(false, b, 1);
            }
        }
        if (last) return;
        for (Field<T, V>& field : fields_) field.turn();
    }

    // The scores of a point, from its unary ones and, if it is informed, from what the lattices have for it.
    void update(Index p, bool informed, V* row, V* message) const {
        for (Index b = 0; b < blocks(); ++b) row[b] = rows_[p * blocks() + b];
        if (!informed) return;
        for (int k = 0; k < updates_.lattices; ++k) {
            fields_[k].template slice<B>(p, message, 0, blocks());
            const T factor = fields_[k].factor(p);
            if (!updates_.matrices) {
                const T weight = weights_[k] * factor;
                for (Index b = 0; b < blocks(); ++b) row[b] += weight * message[b];
                continue;
            }
            const V* column = columns_ + k * updates_.labels * blocks();
            for (Index label = 0; label < updates_.labels; ++label, column += blocks()) {
                const T value = factor * message[label / W][label % W];
                for (Index b = 0; b < blocks(); ++b) row[b] += value * column[b];
            }
        }
    }

    void keep(const V* row, T* to) const {
        for (Index b = 0; b < blocks(); ++b) store(to + b * W, row[b], updates_.labels - b * W);
    }

    void pack(const T* unary, int threads) {
#pragma omp parallel for num_threads(threads)
        for (Index from = 0; from < points_; from += W)
            for (Index b = 0; b < blocks(); ++b) {
                V tile[W];
                for (Index i = 0; i < W; ++i)
                    tile[i] = b * W + i < updates_.labels
                                  ? load<V>(unary + (b * W + i) * points_ + from, points_ - from)
                                  : V{} - std::numeric_limits<T>::infinity();
                transpose(tile);
                for (Index i = 0; i < W && from + i < points_; ++i) rows_[(from + i) * blocks() + b] = tile[i];
            }
    }

    void unpack(T* scores, int threads) const {
#pragma omp parallel for num_threads(threads)
        for (Index from = 0; from < points_; from += W)
            for (Index b = 0; b < blocks(); ++b) {
                V tile[W] = {};
                for (Index i = 0; i < W && from + i < points_; ++i) tile[i] = rows_[(from + i) * blocks() + b];
                transpose(tile);
                for (Index i = 0; i < W && b * W + i < updates_.labels; ++i)
                    store(scores + (b * W + i) * points_ + from, tile[i], points_ - from);
            }
    }
};

// The matrices [lattices, labels (of the receiver), labels] by sender, a row of vectors each.
template <class T, class V = typename Vector<T>::type>
std::vector<V> by_sender(const Updates& updates, const T* weights) {
    constexpr Index W = sizeof(V) / sizeof(T);
    const Index K = updates.labels, blocks = (K + W - 1) / W;
    std::vector<V> columns(updates.lattices * K * blocks, V{});
    for (Index k = 0; k < updates.lattices; ++k)
        for (Index to = 0; to < K; ++to)
            for (Index from = 0; from < K; ++from)
                columns[(k * K + from) * blocks + to / W][to % W] = weights[(k * K + to) * K + from];
    return columns;
}

// Images by as many threads, if there are enough of them, or one after the other by all threads.
template <class T, int B, class V = typename Vector<T>::type>
void mean_field(const Lattice* lattices, const Updates& updates, const T* weights, const T* unary, T* scores, T* kept,
                int threads) {
    const std::vector<V> columns = updates.matrices ? by_sender(updates, weights) : std::vector<V>();
    const Index points = lattices->points, size = points * updates.labels;
    const bool alone = threads <= updates.images;
    const Index room = Image<T, B>::room(lattices, updates, alone);
#pragma omp parallel num_threads(alone ? threads : 1)
    {
        const Scratch<V> scratch(room);
#pragma omp for schedule(dynamic)
        for (Index n = 0; n < updates.images; ++n) {
            Image<T, B> image(lattices, updates, n, weights, columns.data(), scratch.memory, alone);
            T* const marginals = kept ? kept + n * size : nullptr;
            image.solve(unary + n * size, scores + n * size, marginals, updates.images * size, alone ? 1 : threads);
        }
    }
}

template <class T, class V = typename Vector<T>::type>
void any_mean_field(const Lattice* lattices, const Updates& updates, const T* weights, const T* unary, T* scores,
                    T* kept, int threads) {
    constexpr Index W = sizeof(V) / sizeof(T);
    const Index blocks = (updates.labels + W - 1) / W;
    const auto solve = blocks == 1   ? mean_field<T, 1>
                       : blocks == 2 ? mean_field<T, 2>
                       : blocks == 3 ? mean_field<T, 3>
                                     : mean_field<T, 0>;
    solve(lattices, updates, weights, unary, scores, kept, threads);
}

}  // namespace

// Builds the lattices of points [groups, points, d]; `sizes` [groups] is how many vertices each has. The result is
// to be given to `take` once. status: FINE, TOO_FAR, NOT_FINITE, or -1 where d has no code.
extern "C" void* build(const float* features, Index groups, Index points, int d, int* gather, float* weights,
                       Index* sizes, int* status, int threads) {
    Neighbours* const result = new Neighbours(groups);
    const auto make = d == 1   ? build<1>
                      : d == 2 ? build<2>
                      : d == 3 ? build<3>
                      : d == 4 ? build<4>
                      : d == 5 ? build<5>
                      : d == 6 ? build<6>
                               : nullptr;
    *status = make ? make(features, groups, points, gather, weights, *result, threads) : -1;
    for (Index g = 0; g < groups; ++g) sizes[g] = Index((*result)[g].size()) / (2 * (d + 1));
    return result;
}

// Copies the neighbours of all groups, [vertices, d + 1, 2], or nothing if `to` is null, and frees what `build` made.
extern "C" void take(void* built, int* to) {
    Neighbours* const groups = static_cast<Neighbours*>(built);
    for (const std::vector<int>& group : *groups)
        if (to) to = std::copy(group.begin(), group.end(), to);
    delete groups;
}

#define FOR_NUMBERS(T, NAME)                                                                                       \
    extern "C" void filter_##NAME(const Lattice* lattice, int reverse, const T* values, T* out, Index images,      \
                                  Index columns, int threads) {                                                    \
        filter<T>(*lattice, reverse, values, out, images, columns, threads);                                       \
    }                                                                                                              \
    extern "C" void mean_field_##NAME(const Lattice* lattices, const Updates* updates, const T* weights,           \
                                      const T* unary, T* scores, T* kept, int threads) {                           \
        any_mean_field<T>(lattices, *updates, weights, unary, scores, kept, threads);                              \
    }

FOR_NUMBERS(float, float32)
FOR_NUMBERS(double, float64)
