//! Sets of whole numbers, as ranges: ports and addresses are both kept so.

/// Inclusive ranges: sorted, and neither overlapping nor touching, so that equal sets are equal values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Ranges(Vec<(u128, u128)>);

impl Ranges {
    /// Every number from `first` to `last`; none where `last` is the smaller one.
    pub(crate) fn new(first: u128, last: u128) -> Self {
        if first <= last { Self(vec![(first, last)]) } else { Self::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u128, u128)> + '_ {
        self.0.iter().copied()
    }

    pub(crate) fn contains(&self, number: u128) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= number);
        after.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|(_, last)| number <= *last)
    }

    /// The smallest and the largest number.
    pub(crate) fn ends(&self) -> Option<(u128, u128)> {
        Some((self.0.first()?.0, self.0.last()?.1))
    }

    pub(crate) fn union(&self, other: &Self) -> Self {
        let mut all: Vec<_> = self.iter().chain(other.iter()).collect();
        all.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::with_capacity(all.len());
        for (first, last) in all {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    pub(crate) fn intersection(&self, other: &Self) -> Self {
        let (mut left, mut right) = (self.iter().peekable(), other.iter().peekable());
        let mut common = Vec::new();
        while let (Some(a), Some(b)) = (left.peek().copied(), right.peek().copied()) {
            if a.0.max(b.0) <= a.1.min(b.1) {
                common.push((a.0.max(b.0), a.1.min(b.1)));
            }
            // The range that ends first meets nothing further on.
            if a.1 <= b.1 {
                left.next()
            } else {
                right.next()
            };
        }
        Self(common)
    }

    pub(crate) fn difference(&self, other: &Self) -> Self {
        let mut rest = Vec::new();
        for (first, last) in self.iter() {
            let mut from = Some(first);
            for (hole, hole_end) in other.iter().filter(|(a, b)| *a <= last && *b >= first) {
                if let Some(start) = from
                    && start < hole
                {
                    rest.push((start, hole - 1));
                }
                from = hole_end.checked_add(1);
            }
            if let Some(start) = from
                && start <= last
            {
                rest.push((start, last));
            }
        }
        Self(rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges() -> impl Strategy<Value = Ranges> {
        prop::collection::vec((0_u128..40, 0_u128..8), 0..6).prop_map(|parts| {
            parts
                .into_iter()
                .fold(Ranges::default(), |all, (first, length)| all.union(&Ranges::new(first, first + length)))
        })
    }

    proptest! {
        #[test]
        fn a_number_is_in_the_result_exactly_if_the_set_operation_says_so(a in ranges(), b in ranges()) {
            for number in 0..60 {
                let (in_a, in_b) = (a.contains(number), b.contains(number));
                prop_assert_eq!(a.union(&b).contains(number), in_a || in_b);
                prop_assert_eq!(a.intersection(&b).contains(number), in_a && in_b);
                prop_assert_eq!(a.difference(&b).contains(number), in_a && !in_b);
            }
        }

        #[test]
        fn equal_sets_are_equal_values(a in ranges(), b in ranges()) {
            prop_assert_eq!(a.difference(&b).union(&a.intersection(&b)), a);
        }
    }

    #[test]
    fn the_last_number_of_all_has_no_number_after_it() {
        let all = Ranges::new(0, u128::MAX);
        assert_eq!(all.difference(&Ranges::new(1, u128::MAX)), Ranges::new(0, 0));
        assert!(all.difference(&all).is_empty());
        assert_eq!(all.union(&Ranges::new(7, u128::MAX)), all);
    }
}
