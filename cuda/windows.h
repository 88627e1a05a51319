// Covariances of the R x R windows of pairs of maps, and the entropy of the windows of one map given those of the
// other, in double precision; windows.cpp and windows.cu use it. methods/rmi.py has the formula.
//
// The sum over all windows of the product of two of their places is a sum over a rectangle of cells of
// map[cell] * other[cell - displacement], and only the borders of the rectangle depend on the places. So the cells
// are divided into groups that lie in the same rectangles: each of the first R - 1 and of the last R - 1 rows is a
// group of rows, and so are all rows between them; columns likewise. The products are summed by displacement and
// group, R * (2R - 1) * (2R - 1)^2 sums; nothing is ever subtracted. The derivative turns this round: a
// stencil of (2R - 1)^2 cells, one for each group.
//
// A place of a window is map * R * R + row * R + column. Of two cells, the one further down comes first, and on one
// row the one further right; the displacement from the second to the first is (down, across - (R - 1)).
#pragma once

typedef long long Index;

template <int R>
struct Window {
    static constexpr int side = 2 * R - 1;      // of a stencil, and how many groups of rows there are
    static constexpr int area = R * R;          // places in a window of one map
    static constexpr int places = 2 * R * R;    // in both maps
    static constexpr int groups = side * side;  // of cells
    static constexpr int sums = 2 + 4 * side;   // of cells; of products ff, gg, fg, gf for every `across`
    static constexpr int stencil = 1 + 2 * side * side;  // a constant, and factors of the cells of both maps
};

// The group of a row, or of a column.
DEVICE inline int group_of(int radius, int length, int at) {
    if (at < radius - 1) return at;
    const int behind = at - (length - radius);
    return radius - 1 + (behind > 0 ? behind : 0);
}

// The first row of a group; that of group 2R - 1 is where the map ends.
DEVICE inline int group_start(int radius, int length, int group) {
    return group < radius ? group : length - 2 * radius + 1 + group;
}

// Adds what the cells of one column bring, with those `down` rows above them: the sums of Window<R>.
// maps.at(map, y, x) is centred, and 0 outside the map.
template <int R, class V, class Maps>
DEVICE inline void add_products(const Maps& maps, int down, int first, int last, int x, V* sums) {
    for (int y = first; y < last; ++y) {
        const V f = maps.at(0, y, x), g = maps.at(1, y, x);
        sums[0] += f;
        sums[1] += g;
        UNROLL
        for (int across = 0; across < 2 * R - 1; ++across) {
            const V second_f = maps.at(0, y - down, x + R - 1 - across);
            const V second_g = maps.at(1, y - down, x + R - 1 - across);
            V* out = sums + 2 + 4 * across;
            out[0] += f * second_f;
            out[1] += g * second_g;
            out[2] += f * second_g;
            out[3] += g * second_f;
        }
    }
}

// A sum of add_products over the cells that lie at a place of a window. table: [groups, sums].
template <int R>
DEVICE inline double over_windows(const double* table, int row, int column, int which) {
    double total = 0;
    for (int y = row; y < row + R; ++y)
        for (int x = column; x < column + R; ++x) total += table[(y * (2 * R - 1) + x) * Window<R>::sums + which];
    return total;
}

// The sum over all windows of the number at a place. table: [R, groups, sums], by `down`.
template <int R>
DEVICE inline double sum_at(const double* table, int place) {
    const int within = place % (R * R);
    return over_windows<R>(table, within / R, within % R, place / (R * R));
}

// The sum over all windows of the product of the numbers at two places.
template <int R>
DEVICE inline double product_at(const double* table, int first, int second) {
    if (first % (R * R) < second % (R * R)) {
        const int other = first;
        first = second;
        second = other;
    }
    const int map = first / (R * R), other_map = second / (R * R);
    const int row = first % (R * R) / R, column = first % R;
    const int down = row - second % (R * R) / R, across = column - second % R + R - 1;
    const int kind = map == other_map ? map : 2 + map;
    const double* part = table + down * Window<R>::groups * Window<R>::sums;
    return over_windows<R>(part, row, column, 2 + 4 * across + kind);
}

// The lower Cholesky factor of a matrix [n, n], in its own place, by all threads.
DEVICE inline void factorise(double* matrix, int n) {
    for (int j = 0; j < n; ++j) {
        const double pivot = sqrt(matrix[j * n + j]);
        BARRIER;
        for (int i = j + LANE; i < n; i += LANES) matrix[i * n + j] = i == j ? pivot : matrix[i * n + j] / pivot;
        BARRIER;
        for (int row = j + 1 + LANE; row < n; row += LANES)
            for (int column = j + 1; column <= row; ++column)
                matrix[row * n + column] -= matrix[row * n + j] * matrix[column * n + j];
        BARRIER;
    }
}

// The inverse of a lower triangle [n, n], by all threads; nothing is written above its diagonal.
DEVICE inline void invert(const double* triangle, int n, double* inverse) {
    for (int j = LANE; j < n; j += LANES)
        for (int i = j; i < n; ++i) {
            double value = i == j;
            for (int k = j; k < i; ++k) value -= triangle[i * n + k] * inverse[k * n + j];
            inverse[i * n + j] = value / triangle[i * n + i];
        }
    BARRIER;
}

// The entropy, up to a constant, of the windows of the second map given those of the first, and its derivative by a
// window of the first map, which is matrix * (window of both maps) + offset.
//
// table: from add_products, [R, groups, sums]; count: of windows; scale: of the maps; ridge: added to the diagonal.
// matrix: [area, places], offset: [area]. scratch: 2 * places^2 + places numbers. For all threads.
template <int R>
DEVICE inline void entropy_of(const double* table, double count, double scale, double ridge, double* entropy,
                              double* matrix, double* offset, double* scratch) {
    constexpr int n = Window<R>::places, area = Window<R>::area;
    double *joint = scratch, *inverse = joint + n * n, *sums = inverse + n * n;
    for (int i = LANE; i < n; i += LANES) sums[i] = sum_at<R>(table, i);
    BARRIER;
    for (int e = LANE; e < n * n; e += LANES) {
        const int i = e / n, j = e % n;
        if (j > i) continue;
        const double covariance = product_at<R>(table, i, j) - sums[i] * sums[j] / count;
        joint[e] = scale * scale * covariance + (i == j ? ridge : 0);
    }
    BARRIER;
    factorise(joint, n);
    invert(joint, n, inverse);
    if (LANE == 0) {
        double total = 0;
        bool sound = true;  // it is, unless the maps are not finite
        for (int i = 0; i < n; ++i) {
            sound = sound && joint[i * n + i] > 0;
            if (i >= area) total += log(joint[i * n + i]);
        }
        *entropy = sound ? total : sqrt(-1.0);
    }
    for (int e = LANE; e < area * n; e += LANES) {
        double value = 0;
        for (int k = n - 1; k >= area && k >= e % n; --k) value += inverse[k * n + e / n] * inverse[k * n + e % n];
        matrix[e] = scale * scale * value;
    }
    BARRIER;
    for (int i = LANE; i < area; i += LANES) {
        double value = 0;
        for (int j = 0; j < n; ++j) value -= matrix[i * n + j] * (sums[j] / count);
        offset[i] = value;
    }
}

// The stencil at ROWS cells, one below the other.
template <int R, int ROWS, class V, class Maps>
DEVICE inline void apply_stencil(const Maps& maps, const V* stencil, int y, int x, V* out) {
    constexpr int side = Window<R>::side;
    UNROLL
    for (int row = 0; row < ROWS; ++row) out[row] = stencil[0];
    for (int map = 0; map < 2; ++map)
        for (int across = 0; across < side; ++across) {
            V cells[ROWS + side - 1];
            UNROLL
            for (int row = 0; row < ROWS + side - 1; ++row) cells[row] = maps.at(map, y + row - (R - 1), x + across - (R - 1));
            UNROLL
            for (int down = 0; down < side; ++down) {
                const V factor = stencil[1 + (map * side + down) * side + across];
                UNROLL
                for (int row = 0; row < ROWS; ++row) out[row] += factor * cells[row + down];
            }
        }
}
