//! Chance that can be had again: the same seed throws the same numbers, on every machine and with every version of every
//! dependency. That is why this is ours and no library's.

/// Pseudo-random numbers by SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    /// Dice that fall as `seed` says.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from `low` to `high`, both included. The tiny bias of the remainder does not matter here.
    pub(super) fn between(&mut self, low: u32, high: u32) -> u32 {
        let span = u64::from(high.saturating_sub(low)) + 1;
        low.saturating_add(u32::try_from(self.next() % span).unwrap_or_default())
    }

    /// True once in `times` on average.
    pub(super) fn once_in(&mut self, times: u32) -> bool {
        self.between(1, times.max(1)) == 1
    }

    /// Mixes the order of things.
    pub(super) fn shuffle<T>(&mut self, things: &mut [T]) {
        for last in (1..things.len()).rev() {
            let bound = u32::try_from(last).unwrap_or(u32::MAX);
            things.swap(last, self.between(0, bound) as usize);
        }
    }
}

/// Cards that are dealt in random order, and shuffled again when all were dealt: everything comes up within two decks.
#[derive(Clone, Debug)]
pub(super) struct Deck<T> {
    cards: Vec<T>,
    left: Vec<T>,
}

impl<T: Clone> Deck<T> {
    /// A deck with so many of each card.
    pub(super) fn of(cards: impl IntoIterator<Item = (T, usize)>) -> Self {
        let cards = cards
            .into_iter()
            .flat_map(|(card, times)| std::iter::repeat_n(card, times));
        Self {
            cards: cards.collect(),
            left: Vec::new(),
        }
    }

    /// The next card; none only if the deck never had one.
    pub(super) fn deal(&mut self, dice: &mut Dice) -> Option<T> {
        self.deal_fitting(dice, |_| true)
    }

    /// The next card that fits; those before it stay where they are, and are the next to be dealt. None only if the deck
    /// never had one.
    pub(super) fn deal_fitting(&mut self, dice: &mut Dice, fits: impl Fn(&T) -> bool) -> Option<T> {
        if !self.left.iter().any(&fits) {
            let mut deck = self.cards.clone();
            dice.shuffle(&mut deck);
            deck.append(&mut self.left);
            self.left = deck;
        }
        let at = self.left.iter().rposition(fits)?;
        Some(self.left.remove(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_published_generator() {
        // The first outputs of the reference implementation for seed 1234567.
        let mut dice = Dice::new(1_234_567);
        assert_eq!(dice.next(), 6_457_827_717_110_365_317);
        assert_eq!(dice.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn a_deck_deals_every_card_before_any_comes_again() {
        let mut dice = Dice::new(1);
        let mut deck = Deck::of([('a', 2), ('b', 1)]);
        for _ in 0..20 {
            let mut dealt: Vec<_> = (0..3).filter_map(|_| deck.deal(&mut dice)).collect();
            dealt.sort_unstable();
            assert_eq!(dealt, ['a', 'a', 'b']);
        }
    }

    #[test]
    fn a_card_that_does_not_fit_waits_for_its_turn_and_comes_first_then() {
        let mut dice = Dice::new(1);
        let mut deck = Deck::of([('a', 2), ('b', 1)]);
        for _ in 0..5 {
            assert_eq!(deck.deal_fitting(&mut dice, |card| *card == 'a'), Some('a'));
        }
        assert_eq!(deck.deal(&mut dice), Some('b'));
        assert_eq!(deck.deal_fitting(&mut dice, |card| *card == 'c'), None);
    }
}
