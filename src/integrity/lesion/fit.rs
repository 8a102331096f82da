//! Robust statistics.

/// Rounds of reweighting at most.
const ROUNDS: usize = 20;
/// Where Huber's weights begin to fall, in standard deviations.
const HUBER: f64 = 3.0;
/// From the median absolute deviation of a normal distribution to its standard deviation.
const TO_DEVIATION: f64 = 1.4826;

/// The median; 0 of nothing. Reorders.
pub(super) fn median(values: &mut [f32]) -> f32 {
    if values.is_empty() {
        return 0.0;
    }
    let length = values.len();
    let middle = length / 2;
    let (below, upper, _) = values.select_nth_unstable_by(middle, f32::total_cmp);
    let upper = *upper;
    if length % 2 == 1 {
        return upper;
    }
    let lower = below.iter().copied().max_by(f32::total_cmp).unwrap_or(upper);
    (lower + upper) / 2.0
}

/// The standard deviation of a normal distribution with this median absolute deviation. Reorders and overwrites.
pub(super) fn deviation(values: &mut [f32]) -> f64 {
    let middle = median(values);
    values.iter_mut().for_each(|v| *v = (*v - middle).abs());
    TO_DEVIATION * f64::from(median(values))
}

/// A linear prediction of some values from others.
#[derive(Debug, Clone)]
pub(super) struct Fit {
    /// Of each value.
    pub predicted: Vec<f32>,
    /// Robust standard deviation of what remains.
    pub scale: f64,
}

/// Fits y = b₀ + Σ bₖ featureₖ by iteratively reweighted least squares with Huber's weights (Huber 1964), in which a
/// value far off counts little.
pub(super) fn fit(y: &[f32], features: &[Vec<f32>]) -> Fit {
    let size = features.len() + 1;
    let mut weights = vec![1.0f64; y.len()];
    let mut coefficients = vec![0.0; size];
    let mut predicted = vec![0.0f32; y.len()];
    let mut scale = 0.0;
    let mut row = vec![1.0f64; size];
    for _ in 0..ROUNDS {
        // Normal equations: size² numbers and the right-hand side.
        let mut matrix = vec![0.0f64; size * size];
        let mut right = vec![0.0f64; size];
        for (at, (&y, &weight)) in y.iter().zip(&weights).enumerate() {
            row[1..].iter_mut().zip(features).for_each(|(to, feature)| *to = feature[at].into());
            for i in 0..size {
                right[i] += weight * row[i] * f64::from(y);
                for j in 0..=i {
                    matrix[i * size + j] += weight * row[i] * row[j];
                }
            }
        }
        let before = std::mem::replace(&mut coefficients, solve(&mut matrix, &right));
        for (at, to) in predicted.iter_mut().enumerate() {
            let sum: f64 = features.iter().zip(&coefficients[1..]).map(|(f, b)| f64::from(f[at]) * b).sum();
            *to = (coefficients[0] + sum) as f32;
        }
        let residual = |at: usize| y[at] - predicted[at];
        scale = deviation(&mut (0..y.len()).map(residual).collect::<Vec<f32>>());
        let full = HUBER * scale + 1e-9;
        weights
            .iter_mut()
            .enumerate()
            .for_each(|(at, w)| *w = (full / f64::from(residual(at)).abs().max(1e-12)).min(1.0));
        if before.iter().zip(&coefficients).all(|(a, b)| (a - b).abs() < 1e-6) {
            break;
        }
    }
    Fit { predicted, scale }
}

/// Solves a symmetric positive system, of which the lower triangle is given, by Cholesky's method; a direction without
/// information gets the coefficient 0.
fn solve(matrix: &mut [f64], right: &[f64]) -> Vec<f64> {
    let size = right.len();
    let mut x = right.to_vec();
    for i in 0..size {
        let own = matrix[i * size + i];
        for j in 0..=i {
            let sum: f64 = (0..j).map(|k| matrix[i * size + k] * matrix[j * size + k]).sum();
            let value = matrix[i * size + j] - sum;
            matrix[i * size + j] = match i == j {
                false => value / matrix[j * size + j],
                // Infinity makes what depends on this direction 0.
                true if value <= 1e-10 * own || value <= 0.0 => f64::INFINITY,
                true => value.sqrt(),
            };
        }
    }
    for i in 0..size {
        let sum: f64 = (0..i).map(|k| product(matrix[i * size + k], x[k])).sum();
        x[i] = (x[i] - sum) / matrix[i * size + i];
    }
    for i in (0..size).rev() {
        let sum: f64 = (i + 1..size).map(|k| product(matrix[k * size + i], x[k])).sum();
        x[i] = (x[i] - sum) / matrix[i * size + i];
    }
    x
}

/// a b, and 0 where one is 0 and the other infinite.
fn product(a: f64, b: f64) -> f64 {
    if a == 0.0 || b == 0.0 { 0.0 } else { a * b }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_even_and_odd_counts() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&mut []), 0.0);
        assert!((deviation(&mut [1.0, 2.0, 3.0, 4.0, 100.0]) - 1.4826).abs() < 1e-6);
    }

    #[test]
    fn a_line_is_found_in_spite_of_outliers() {
        let a: Vec<f32> = (0..200).map(|i| (i as f32 * 0.7).sin()).collect();
        let b: Vec<f32> = (0..200).map(|i| (i as f32 * 0.31).cos()).collect();
        let noise = |i: usize| ((i * 7919 % 101) as f32 / 101.0 - 0.5) * 0.01;
        let exact: Vec<f32> = (0..200).map(|i| 0.25 + 2.0 * a[i] - 0.5 * b[i]).collect();
        let mut y: Vec<f32> = (0..200).map(|i| exact[i] + noise(i)).collect();
        y[17] += 30.0;
        y[90] -= 5.0;
        // A feature twice and a constant one say nothing new.
        let fit = fit(&y, &[a.clone(), b, a, vec![0.0; 200], vec![3.0; 200]]);
        assert!(fit.predicted.iter().zip(&exact).all(|(p, e)| (p - e).abs() < 0.01), "{:?}", &fit.predicted[..5]);
        assert!(fit.scale < 0.01, "{}", fit.scale);
    }
}
