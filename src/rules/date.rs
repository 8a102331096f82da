//! Days.

use serde::{Serialize, Serializer};
use std::fmt;

/// A day of the Gregorian calendar, written YYYY-MM-DD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    year: u16,
    month: u8,
    day: u8,
}

impl Date {
    /// Today, UTC.
    pub fn today() -> Date {
        let now = crate::patch::now_utc();
        // What is written there begins with a day.
        now.get(..10).and_then(|day| day.parse().ok()).unwrap_or(Date { year: 9999, month: 12, day: 31 })
    }
}

impl Date {
    /// How many days later this is than another day.
    pub fn days_after(self, other: Date) -> i64 {
        self.number() - other.number()
    }

    /// Days since the first of March of the year 0, by which leap days come last in a year.
    fn number(self) -> i64 {
        let (month, day) = (i64::from(self.month), i64::from(self.day));
        let (year, month) =
            if month > 2 { (i64::from(self.year), month - 3) } else { (i64::from(self.year) - 1, month + 9) };
        365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + (153 * month + 2) / 5 + day - 1
    }
}

impl std::str::FromStr for Date {
    type Err = String;

    fn from_str(text: &str) -> Result<Date, String> {
        let wrong = || format!("{text:?} is not a day, expected YYYY-MM-DD such as 2027-03-31");
        let digits = |from: usize, to: usize| -> Result<u16, String> {
            let part = text.get(from..to).filter(|p| p.bytes().all(|b| b.is_ascii_digit())).ok_or_else(wrong)?;
            part.parse().map_err(|_| wrong())
        };
        if text.len() != 10 || &text.as_bytes()[4..5] != b"-" || &text.as_bytes()[7..8] != b"-" {
            return Err(wrong());
        }
        let (year, month, day) = (digits(0, 4)?, digits(5, 7)?, digits(8, 10)?);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days = match month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => return Err(wrong()),
        };
        match (1..=days).contains(&day) && year > 0 {
            true => Ok(Date { year, month: month as u8, day: day as u8 }),
            false => Err(wrong()),
        }
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl Serialize for Date {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}
