//! Days and times, UTC.

use jiff::{Timestamp, civil, tz::TimeZone};
use serde::{Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Now, to the second, such as `2026-11-22T20:33:36Z`.
pub(crate) fn now_utc() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A day of the Gregorian calendar, written YYYY-MM-DD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date(civil::Date);

impl Date {
    /// The system clock's day, UTC.
    pub fn today() -> Date {
        Date(Timestamp::now().to_zoned(TimeZone::UTC).date())
    }

    /// How many days later this is than another day.
    pub fn days_after(self, other: Date) -> i64 {
        self.0.duration_since(other.0).as_hours() / 24
    }
}

impl FromStr for Date {
    type Err = String;

    fn from_str(text: &str) -> Result<Date, String> {
        // Years of other lengths are days as well to jiff, and the year 0.
        let day = civil::Date::strptime("%Y-%m-%d", text).ok().filter(|day| day.year() > 0 && day.to_string() == text);
        day.map(Date).ok_or_else(|| format!("{text:?} is not a day, expected YYYY-MM-DD such as 2027-03-31"))
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Date {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::Date;

    #[test]
    fn days_are_those_of_the_calendar() {
        for day in ["2027-01-01", "2028-02-29", "2000-02-29", "9999-12-31"] {
            assert_eq!(day.parse::<Date>().unwrap().to_string(), day);
        }
        for none in [
            "2027-02-29",
            "1900-02-29",
            "2027-13-01",
            "2027-00-10",
            "2027-04-31",
            "2027-1-1",
            "27-01-01",
            "2027-01-01T00:00:00Z",
            "2027/01/01",
            "+027-01-01",
            "0000-01-01",
            "",
            "2027-01-é",
        ] {
            assert!(none.parse::<Date>().is_err(), "{none}");
        }
        let day = |text: &str| text.parse::<Date>().unwrap();
        assert!(day("2027-01-31") < day("2027-02-01"));
        for (later, earlier, days) in [
            ("2027-02-01", "2027-01-31", 1),
            ("2028-03-01", "2028-02-28", 2),
            ("2027-03-01", "2027-02-28", 1),
            ("2029-03-01", "2028-03-01", 365),
            ("2400-03-01", "2000-03-01", 146_097),
            ("1970-01-01", "0001-01-01", 719_162),
            ("2026-01-01", "2026-12-31", -364),
        ] {
            assert_eq!(day(later).days_after(day(earlier)), days, "{later} {earlier}");
        }
        assert!(Date::today() > "2025-01-01".parse().unwrap() && Date::today().to_string() != "9999-12-31");
    }
}
