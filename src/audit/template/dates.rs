//! Days on which a template is tried.

use super::Tried;
use crate::worker::Date;

/// Texts of the template that may be a date.
const MOST_DATES: usize = 30;

impl Tried {
    /// Dates that the template may know: long ago, in a far future, and as its own texts say.
    pub(super) fn dates<'t>(&'t self) -> Vec<(String, Date<'t>)> {
        if !self.template.text().contains("strftime_now") {
            return Vec::new();
        }
        let days = DAYS.map(|(name, letters)| {
            (name.to_owned(), Date::Day(letters.iter().map(|(letter, text)| (*letter, (*text).into())).collect()))
        });
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

/// Two days, by what stands for their parts.
const DAYS: [(&str, &[(char, &str)]); 2] = [
    (
        "in 1999",
        &[
            ('Y', "1999"),
            ('y', "99"),
            ('m', "01"),
            ('d', "02"),
            ('e', " 2"),
            ('B', "January"),
            ('b', "Jan"),
            ('h', "Jan"),
            ('A', "Saturday"),
            ('a', "Sat"),
            ('H', "03"),
            ('I', "03"),
            ('M', "04"),
            ('S', "05"),
            ('p', "AM"),
            ('j', "002"),
            ('F', "1999-01-02"),
            ('D', "01/02/99"),
            ('T', "03:04:05"),
            ('R', "03:04"),
            ('x', "01/02/99"),
            ('X', "03:04:05"),
            ('c', "Sat Jan  2 03:04:05 1999"),
            ('u', "6"),
            ('w', "6"),
            ('U', "00"),
            ('W', "00"),
            ('V', "53"),
            ('G', "1998"),
            ('s', "915246245"),
            ('z', ""),
            ('Z', ""),
            ('f', "000000"),
            ('C', "19"),
            ('%', "%"),
            ('n', "\n"),
            ('t', "\t"),
        ],
    ),
    (
        "in 2098",
        &[
            ('Y', "2098"),
            ('y', "98"),
            ('m', "12"),
            ('d', "31"),
            ('e', "31"),
            ('B', "December"),
            ('b', "Dec"),
            ('h', "Dec"),
            ('A', "Wednesday"),
            ('a', "Wed"),
            ('H', "22"),
            ('I', "10"),
            ('M', "58"),
            ('S', "59"),
            ('p', "PM"),
            ('j', "365"),
            ('F', "2098-12-31"),
            ('D', "12/31/98"),
            ('T', "22:58:59"),
            ('R', "22:58"),
            ('x', "12/31/98"),
            ('X', "22:58:59"),
            ('c', "Wed Dec 31 22:58:59 2098"),
            ('u', "3"),
            ('w', "3"),
            ('U', "52"),
            ('W', "52"),
            ('V', "01"),
            ('G', "2099"),
            ('s', "4070905139"),
            ('z', ""),
            ('Z', ""),
            ('f', "000000"),
            ('C', "20"),
            ('%', "%"),
            ('n', "\n"),
            ('t', "\t"),
        ],
    ),
];

/// Texts that are a date are no longer, and have a digit or begin a name.
const LONGEST_DATE: usize = 30;
const MONTHS: [&str; 19] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec", "mon", "tue", "wed", "thu",
    "fri", "sat", "sun",
];
