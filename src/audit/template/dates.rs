//! Days on which a template is tried.

use super::Tried;
use crate::worker::Date;
use jiff::civil;
use jiff::tz::TimeZone;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Texts of the template that may be a date.
const MOST_DATES: usize = 30;

impl Tried {
    /// Dates that the template may know: long ago, in a far future, and as its own texts say.
    pub(super) fn dates<'t>(&'t self) -> Vec<(String, Date<'t>)> {
        if !self.template.text().contains("strftime_now") {
            return Vec::new();
        }
        let days = DAYS.map(|(name, day)| (name.to_owned(), Date::Day(parts(day))));
        let is_date = |text: &&String| {
            let is_month = MONTHS.iter().any(|name| text.to_lowercase().contains(name));
            (1..=LONGEST_DATE).contains(&text.len()) && (is_month || text.contains(|c: char| c.is_ascii_digit()))
        };
        let numbers = self.asked.numbers.iter().filter(|number| **number < 10_000).map(usize::to_string);
        let own = self.own.iter().filter(is_date).cloned().chain(numbers).collect();
        let own = self.at_most(MOST_DATES, "texts that may be a date", own);
        let own = own.into_iter().map(|text| (format!("{text:?}"), Date::Text(text.into())));
        days.into_iter().chain(own).collect()
    }
}

/// Two days.
const DAYS: [(&str, civil::DateTime); 2] =
    [("in 1999", civil::datetime(1999, 1, 2, 3, 4, 5, 0)), ("in 2098", civil::datetime(2098, 12, 31, 22, 58, 59, 0))];

/// What stands for a part of a day, as Python's `strftime` has it of a day of no time zone: letters that jiff knows by
/// themselves, and what others are of.
const LETTERS: &str = "YymdeBbhAaHIMSpjFDTRuwUWVGsC%nt";
const OTHER_LETTERS: [(char, &str); 6] =
    [('x', "%m/%d/%y"), ('X', "%H:%M:%S"), ('c', "%a %b %e %H:%M:%S %Y"), ('f', "000000"), ('z', ""), ('Z', "")];

/// A day's parts, by what stands for them.
fn parts(day: civil::DateTime) -> BTreeMap<char, Cow<'static, str>> {
    let own = LETTERS.chars().map(|letter| (letter, format!("%{letter}")));
    let other = OTHER_LETTERS.map(|(letter, format)| (letter, format.to_owned()));
    let Ok(day) = day.to_zoned(TimeZone::UTC) else { return BTreeMap::new() };
    own.chain(other).map(|(letter, format)| (letter, day.strftime(&format).to_string().into())).collect()
}

/// Texts that are a date are no longer, and have a digit or begin a name.
const LONGEST_DATE: usize = 30;
const MONTHS: [&str; 19] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec", "mon", "tue", "wed", "thu",
    "fri", "sat", "sun",
];

#[cfg(test)]
mod tests {
    use super::*;

    /// What Python 3.12 has of it, but for time zones.
    #[test]
    fn parts_of_a_day_are_those_of_strftime() {
        let expected: [(&str, [&str; 37]); 2] = [
            (
                "YymdeBbhAaHIMSpjFDTRxXcuwUWVGszZfC%nt",
                [
                    "1999",
                    "99",
                    "01",
                    "02",
                    " 2",
                    "January",
                    "Jan",
                    "Jan",
                    "Saturday",
                    "Sat",
                    "03",
                    "03",
                    "04",
                    "05",
                    "AM",
                    "002",
                    "1999-01-02",
                    "01/02/99",
                    "03:04:05",
                    "03:04",
                    "01/02/99",
                    "03:04:05",
                    "Sat Jan  2 03:04:05 1999",
                    "6",
                    "6",
                    "00",
                    "00",
                    "53",
                    "1998",
                    "915246245",
                    "",
                    "",
                    "000000",
                    "19",
                    "%",
                    "\n",
                    "\t",
                ],
            ),
            (
                "YymdeBbhAaHIMSpjFDTRxXcuwUWVGszZfC%nt",
                [
                    "2098",
                    "98",
                    "12",
                    "31",
                    "31",
                    "December",
                    "Dec",
                    "Dec",
                    "Wednesday",
                    "Wed",
                    "22",
                    "10",
                    "58",
                    "59",
                    "PM",
                    "365",
                    "2098-12-31",
                    "12/31/98",
                    "22:58:59",
                    "22:58",
                    "12/31/98",
                    "22:58:59",
                    "Wed Dec 31 22:58:59 2098",
                    "3",
                    "3",
                    "52",
                    "52",
                    "01",
                    "2099",
                    "4070905139",
                    "",
                    "",
                    "000000",
                    "20",
                    "%",
                    "\n",
                    "\t",
                ],
            ),
        ];
        for ((letters, texts), (name, day)) in expected.into_iter().zip(DAYS) {
            let expected: BTreeMap<char, Cow<'_, str>> = letters.chars().zip(texts.map(Cow::from)).collect();
            assert_eq!(parts(day), expected, "{name}");
        }
    }
}
