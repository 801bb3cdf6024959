//! Medians, percentiles and fairness.

/// The value below which `share` of the values lie; zero of none.
pub(crate) fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    // In range: the share is at most one, and the index is cut to the last value.
    let at = (values.len() as f64 * share) as usize;
    values.get(at.min(values.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

/// The middle value; of an even number, the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    let half = values.len() / 2;
    match (values.len() % 2, values.get(half.wrapping_sub(1)), values.get(half)) {
        (0, Some(low), Some(high)) => f64::midpoint(*low, *high),
        (_, _, Some(middle)) => *middle,
        _ => 0.0,
    }
}

/// Jain's index of fairness: one when all have the same share, 1/n when one has everything.
pub(crate) fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    if squares == 0.0 { 0.0 } else { sum * sum / (squares * shares.len() as f64) }
}

/// Jain's index beside the best that as many turns among as many can have: when none has two more than another.
///
/// Turns come whole: one and a half for each means that every other has two, and an index of 0.9.
pub(crate) fn jain_of_best(turns: &[f64]) -> f64 {
    let (all, count) = (turns.iter().sum::<f64>(), turns.len() as f64);
    let (each, rest) = ((all / count).floor(), all % count);
    let best = all * all / (count * (rest * (each + 1.0).powi(2) + (count - rest) * each * each));
    if all == 0.0 { 0.0 } else { jain(turns) / best }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_and_medians_of_few_values() {
        assert_eq!(percentile(&mut [3.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(percentile(&mut [3.0, 1.0, 2.0], 1.0), 3.0);
        assert_eq!(percentile(&mut [], 0.5), 0.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        assert_eq!(median(&[4.0]), 4.0);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn jain_tells_equal_shares_from_one_winner() {
        assert_eq!(jain(&[5.0, 5.0, 5.0, 5.0]), 1.0);
        assert_eq!(jain(&[20.0, 0.0, 0.0, 0.0]), 0.25);
    }

    #[test]
    fn the_best_of_a_few_turns_is_that_none_has_two_more_than_another() {
        assert_eq!(jain(&[2.0, 2.0, 1.0, 1.0]), 0.9);
        assert_eq!(jain_of_best(&[2.0, 2.0, 1.0, 1.0]), 1.0);
        assert_eq!(jain_of_best(&[7.0, 7.0]), 1.0);
        assert_eq!(jain_of_best(&[1.0, 0.0, 0.0]), 1.0);
        assert!(jain_of_best(&[3.0, 1.0, 1.0, 1.0]) < 0.84);
        assert_eq!(jain_of_best(&[0.0, 0.0]), 0.0);
    }
}
