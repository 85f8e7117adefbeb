//! The inner parts of the transforms and of FRI's folds, written out line by line: every index into an item's values is a
//! number in the text, so that the values are in registers whatever a driver's compiler unrolls. Owns that text only.

use std::fmt::Write;

/// One butterfly each way, and the twiddle of the lowest layer of a pass, which is the circle's if `lo` is 0: then it
/// follows from the line's.
pub(super) const BUTTERFLIES: &str = "
#define FFT_DOWN(a, b, twice) \\
    do { \\
        uint product = m31_mul_twice(b, twice); \\
        b = m31_sub(a, product); \\
        a = m31_add(a, product); \\
    } while (0)

#define FFT_UP(a, b, twice) \\
    do { \\
        uint difference = m31_sub(a, b); \\
        a = m31_add(a, b); \\
        b = m31_mul_twice(difference, twice); \\
    } while (0)

INLINE uint fft_lowest(__global const uint *w, uint w_len, uint log_w, uint lo, uint h)
{
    if (lo > 0) {
        return w[w_len - (1u << (log_w - lo)) + h];
    }
    uint r = h & 3;
    uint value = w[w_len - (1u << (log_w - 1)) + 2 * (h >> 2) + (r < 2 ? 1 : 0)];
    return r == 1 || r == 2 ? P - value : value;
}
";

/// Layer `lo + layer` of a pass over `layers` layers: the values of each butterfly.
fn layer(text: &mut String, layers: u32, layer: u32, butterfly: &str) {
    let rest = layers - 1 - layer;
    // Writing to a string cannot fail.
    let _ = match layer {
        0 => Ok(()),
        _ => writeln!(text, "    at = w + (w_len - (1u << (log_w - lo - {layer})) + (hi << {rest}));"),
    };
    for q in 0..1_u32 << rest {
        let _ = match layer {
            0 => writeln!(text, "    twice = fft_lowest(w, w_len, log_w, lo, (hi << {rest}) + {q}) << 1;"),
            _ => writeln!(text, "    twice = at[{q}] << 1;"),
        };
        for r in 0..1_u32 << layer {
            let a = (q << (layer + 1)) + r;
            let _ = writeln!(text, "    {butterfly}(v[{a}], v[{}], twice);", a + (1 << layer));
        }
    }
}

/// The functions `fft_down_K` and `fft_up_K`: layers lo + K - 1 down to lo of the evaluation, and lo up to lo + K - 1 of the
/// interpolation, of 2^K values that lie 2^lo apart; hi is the number of the first value, divided by 2^(lo + K).
pub(super) fn transforms(layers: u32) -> String {
    let mut text = String::new();
    for (name, butterfly, order) in
        [("down", "FFT_DOWN", (0..layers).rev().collect::<Vec<_>>()), ("up", "FFT_UP", (0..layers).collect())]
    {
        let _ = writeln!(
            text,
            "\nINLINE void fft_{name}_{layers}(uint *v, __global const uint *w, uint w_len, uint log_w, uint lo, \
             uint hi)\n{{\n    __global const uint *at;\n    uint twice;"
        );
        for number in order {
            layer(&mut text, layers, number, butterfly);
        }
        text.push_str("}\n");
    }
    text
}

/// The lines that fold 2^`folds` values `v` of a line into the first, with the names of `fri_fold.cl`.
pub(super) fn folds(folds: u32) -> String {
    let mut text = String::from("    __global const uint *layer;\n");
    for fold in 0..folds {
        let rest = folds - 1 - fold;
        let _ = writeln!(
            text,
            "    layer = COLUMN(inverses) + (inverses_len - (1u << (log_line - {fold}))) + ((size_t)i << {rest});"
        );
        for q in 0..1_u32 << rest {
            let (left, right) = (2 * q, 2 * q + 1);
            let _ = writeln!(text, "    v[{q}] = fold_pair(v[{left}], v[{right}], layer[{q}], alpha);");
        }
        if rest > 0 {
            text.push_str("    alpha = qm31_mul(alpha, alpha);\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_named_by_a_number() {
        for layers in 1..=5 {
            let text = transforms(layers);
            assert!(!text.contains("for ("), "{text}");
            let butterflies = |name: &str| text.matches(name).count();
            let expected = (layers << (layers - 1)) as usize;
            assert_eq!((butterflies("FFT_DOWN"), butterflies("FFT_UP")), (expected, expected));
        }
        for count in 2..=4 {
            assert_eq!(folds(count).matches("fold_pair").count(), (1 << count) - 1);
        }
    }
}
