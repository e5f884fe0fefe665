//! Which key an operation is about.
//!
//! Keys are numbers from 0 up to, not including, how many there are; a dialect gives them their
//! form. Zipfian ranks are drawn by rejection-inversion (Hörmann and Derflinger, 1996; the crate
//! rand_distr) and scattered over the keys one to one, so that the frequent ones lie far apart, as
//! in YCSB, and none of them falls on another.

use anyhow::{Result, anyhow};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution as _, Zipf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How often each key is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Distribution {
    /// All alike.
    Uniform,
    /// The k-th most frequent in proportion to 1 / k^theta.
    Zipfian,
    /// One after another, from the first again behind the last.
    Sequential,
}

/// Draws keys for one thread.
#[derive(Debug)]
pub struct Keys {
    count: u64,
    source: Source,
    random: SmallRng,
}

#[derive(Debug)]
enum Source {
    Uniform,
    Zipfian {
        ranks: Zipf<f64>,
        /// From the key of one rank to that of the next; has no divisor in common with `count`.
        stride: u64,
    },
    /// The next key, for all threads.
    Sequential(Arc<AtomicU64>),
}

impl Keys {
    /// A source of `count` keys. `position` is where sequential ones go on, shared by all
    /// threads; `theta` counts for zipfian ones only.
    ///
    /// # Errors
    /// When there are no keys, or for a theta below 0.
    pub fn new(
        distribution: Distribution,
        count: u64,
        theta: f64,
        seed: u64,
        position: &Arc<AtomicU64>,
    ) -> Result<Keys> {
        if count == 0 {
            return Err(anyhow!("there must be at least one key"));
        }
        let source = match distribution {
            Distribution::Uniform => Source::Uniform,
            Distribution::Sequential => Source::Sequential(Arc::clone(position)),
            Distribution::Zipfian => Source::Zipfian {
                ranks: Zipf::new(count as f64, theta)
                    .map_err(|error| anyhow!("zipfian keys with theta {theta}: {error}"))?,
                stride: stride(count),
            },
        };
        Ok(Keys {
            count,
            source,
            random: SmallRng::seed_from_u64(seed),
        })
    }

    /// The key of the next operation.
    pub fn draw(&mut self) -> u64 {
        match &self.source {
            Source::Uniform => self.random.random_range(0..self.count),
            // Nothing else is made known by it.
            Source::Sequential(next) => next.fetch_add(1, Ordering::Relaxed) % self.count,
            Source::Zipfian { ranks, stride } => {
                let rank = ranks.sample(&mut self.random) as u64;
                scatter(rank.clamp(1, self.count) - 1, *stride, self.count)
            }
        }
    }

    /// Two different keys, the lower first, and one more number below `limit`.
    pub fn draw_pair(&mut self, limit: u64) -> (u64, u64, u64) {
        let first = self.draw();
        let mut second = self.draw();
        if second == first {
            second = (first + 1) % self.count;
        }
        let amount = self.random.random_range(0..limit);
        (first.min(second), first.max(second), amount)
    }

    /// A number below `limit`.
    pub fn number(&mut self, limit: u64) -> u64 {
        self.random.random_range(0..limit)
    }
}

/// Where the key of a rank is.
fn scatter(rank: u64, stride: u64, count: u64) -> u64 {
    let product = u128::from(rank) * u128::from(stride);
    u64::try_from(product % u128::from(count)).unwrap_or_default()
}

/// A stride near the golden section of `count`, which leaves no two neighbouring ranks close.
fn stride(count: u64) -> u64 {
    let golden = (count as f64 * 0.618_033_988_75) as u64;
    let candidates = golden.max(1)..;
    let mut coprime = candidates.filter(|stride| divisor(*stride, count) == 1);
    coprime.next().unwrap_or(1)
}

/// The greatest common divisor (Euclid).
fn divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(distribution: Distribution, count: u64) -> Keys {
        let position = Arc::new(AtomicU64::new(0));
        Keys::new(distribution, count, 0.99, 7, &position).expect("made")
    }

    #[test]
    fn ranks_are_scattered_one_to_one() {
        for count in [1, 2, 3, 10, 64, 1000, 4096, 99_999] {
            let stride = stride(count);
            let mut seen = vec![false; count as usize];
            for rank in 0..count {
                let key = scatter(rank, stride, count) as usize;
                assert!(!seen[key], "{count}: {key} twice");
                seen[key] = true;
            }
        }
    }

    #[test]
    fn zipfian_frequencies_follow_the_law() {
        let count = 1000;
        let mut keys = keys(Distribution::Zipfian, count);
        let stride = stride(count);
        let mut drawn = vec![0_u32; count as usize];
        let draws = 200_000;
        for _ in 0..draws {
            drawn[keys.draw() as usize] += 1;
        }
        let sum: f64 = (1..=count).map(|rank| (rank as f64).powf(-0.99)).sum();
        for rank in [0, 1, 9, 99] {
            let expected = f64::from(draws) * ((rank + 1) as f64).powf(-0.99) / sum;
            let seen = f64::from(drawn[scatter(rank, stride, count) as usize]);
            let spread = 6.0 * expected.sqrt();
            assert!(
                (seen - expected).abs() < spread,
                "rank {rank}: {seen}, expected {expected}"
            );
        }
    }

    #[test]
    fn uniform_keys_reach_all_and_sequential_ones_come_in_order() {
        let mut uniform = keys(Distribution::Uniform, 50);
        let seen: std::collections::BTreeSet<u64> = (0..2000).map(|_| uniform.draw()).collect();
        assert_eq!(seen.len(), 50);
        let mut sequential = keys(Distribution::Sequential, 3);
        let drawn: Vec<u64> = (0..7).map(|_| sequential.draw()).collect();
        assert_eq!(drawn, [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn pairs_are_two_keys_in_order() {
        let mut keys = keys(Distribution::Uniform, 3);
        for _ in 0..1000 {
            let (low, high, amount) = keys.draw_pair(10);
            assert!(low < high && high < 3 && amount < 10, "{low} {high}");
        }
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        let position = Arc::new(AtomicU64::new(0));
        assert!(Keys::new(Distribution::Uniform, 0, 1.0, 0, &position).is_err());
        let error = Keys::new(Distribution::Zipfian, 5, -1.0, 0, &position).expect_err("refused");
        assert!(error.to_string().contains("theta -1"), "{error}");
    }
}
