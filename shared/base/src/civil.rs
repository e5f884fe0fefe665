//! Civil time in UTC from a count of seconds, as log lines and reports print it. Pure; the clock is
//! read elsewhere.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment in UTC. Prints as `2026-11-21 11:28:37.123 UTC`, or without milliseconds as `{:#}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Utc {
    /// Year of the proleptic Gregorian calendar.
    pub year: u64,
    /// From 1.
    pub month: u8,
    /// From 1.
    pub day: u8,
    /// From 0.
    pub hour: u8,
    /// From 0.
    pub minute: u8,
    /// From 0; leap seconds are not told apart, as in POSIX time.
    pub second: u8,
    /// From 0.
    pub millisecond: u16,
}

const SECONDS_PER_DAY: u64 = 24 * 60 * 60;
/// Days of 400 years, after which the calendar repeats.
const DAYS_PER_ERA: u64 = 400 * 365 + 97;
/// Days from 0000-03-01 to 1970-01-01.
const DAYS_TO_EPOCH: u64 = 719_468;

impl Utc {
    /// The moment that is this long after 1970-01-01 00:00.
    ///
    /// Years are counted from March, so that the leap day is the last of its year; the months from
    /// March on then begin at day (153 m + 2) / 5.
    pub fn since_epoch(elapsed: Duration) -> Utc {
        let seconds = elapsed.as_secs();
        let days = seconds / SECONDS_PER_DAY + DAYS_TO_EPOCH;
        let era = days / DAYS_PER_ERA;
        let day_of_era = days % DAYS_PER_ERA;
        let leap_days = day_of_era / 1_460 + day_of_era / (DAYS_PER_ERA - 1) - day_of_era / 36_524;
        let year_of_era = (day_of_era - leap_days) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = (month_from_march + 2) % 12 + 1;
        let in_day = seconds % SECONDS_PER_DAY;
        let small = |number: u64| u8::try_from(number).expect("parts of a date are below 60");
        Utc {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month: small(month),
            day: small(day),
            hour: small(in_day / 3600),
            minute: small(in_day / 60 % 60),
            second: small(in_day % 60),
            millisecond: u16::try_from(elapsed.subsec_millis()).expect("below 1000"),
        }
    }

    /// A clock's time; one before 1970 counts as 1970.
    pub fn from_system(time: SystemTime) -> Utc {
        Self::since_epoch(time.duration_since(UNIX_EPOCH).unwrap_or_default())
    }
}

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Utc {
            year,
            month,
            day,
            hour,
            minute,
            second,
            millisecond,
        } = self;
        write!(
            f,
            "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}"
        )?;
        if !f.alternate() {
            write!(f, ".{millisecond:03}")?;
        }
        f.write_str(" UTC")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        for (millis, text) in [
            (0, "1970-01-01 00:00:00.000 UTC"),
            (86_399_999, "1970-01-01 23:59:59.999 UTC"),
            (951_782_400_000, "2000-02-29 00:00:00.000 UTC"),
            (951_868_800_000, "2000-03-01 00:00:00.000 UTC"),
            (1_735_689_599_001, "2024-12-31 23:59:59.001 UTC"),
            (4_107_542_400_000, "2100-03-01 00:00:00.000 UTC"),
            (253_402_300_800_000, "10000-01-01 00:00:00.000 UTC"),
        ] {
            assert_eq!(
                Utc::since_epoch(Duration::from_millis(millis)).to_string(),
                text
            );
        }
        let second = Duration::from_secs(1_000_000_000);
        assert_eq!(
            format!("{:#}", Utc::since_epoch(second)),
            "2001-09-09 01:46:40 UTC"
        );
    }

    #[test]
    fn every_day_of_800_years_follows_the_one_before() {
        let every = |years: u64, year: u64| year.is_multiple_of(years);
        let leap = |year| every(4, year) && !every(100, year) || every(400, year);
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..800 * 366 {
            let utc = Utc::since_epoch(Duration::from_secs(days * SECONDS_PER_DAY));
            assert_eq!((utc.year, utc.month, utc.day), (year, month, day));
            let length = match month {
                2 => 28 + u8::from(leap(year)),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            (month, day) = if day < length {
                (month, day + 1)
            } else {
                (month + 1, 1)
            };
            (year, month) = if month > 12 {
                (year + 1, 1)
            } else {
                (year, month)
            };
        }
    }
}
