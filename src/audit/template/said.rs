//! What users are taken to say.

use super::{MOST_NUMBERS, Tried};

/// Texts of its own that a template is tried with, at most.
const MOST_TRIED: usize = 500;
/// The longest text, and all of them that the template has numbers for.
const LONGEST: usize = 100_000;
const MOST_WORDS: usize = 10_000;
const MOST_CHARACTERS: usize = 500_000;
/// Characters that are tried alone.
const CHARACTERS: &str = "abcdefghijklmnopqrstuvwxyzATI0123456789\n\t.,;:?!/'\"-_()@#$%&*+=";
/// What users say.
const ENGLISH: &str = "Hello! Why won't this work? Please write me the code, not a story.\n\n\
                       1. Open https://example.com/a.html\n2. My password: 12345 (it's $5)";
/// What users say elsewhere: letters of the scripts of the world, and signs that are none.
const ELSEWHERE: &[&str] = &[
    "Déjà vu à Málaga, größer, Łódź, Ðã, ığş, tiếng Việt",
    "Γειά σου, κόσμε",
    "Привет, мир! Помогите мне, пожалуйста.",
    "Բարեւ աշխարհ",
    "שלום עולם",
    "مرحبا بالعالم، ساعدني",
    "नमस्ते दुनिया",
    "ওহে বিশ্ব",
    "ਸਤਿ ਸ੍ਰੀ ਅਕਾਲ",
    "નમસ્તે દુનિયા",
    "ନମସ୍କାର ଦୁନିଆ",
    "வணக்கம் உலகம்",
    "హలో ప్రపంచం",
    "ನಮಸ್ಕಾರ ಪ್ರಪಂಚ",
    "ഹലോ വേൾഡ്",
    "හෙලෝ වර්ල්ඩ්",
    "สวัสดีชาวโลก",
    "ສະບາຍດີຊາວໂລກ",
    "བཀྲ་ཤིས་བདེ་ལེགས",
    "မင်္ဂလာပါကမ္ဘာလောက",
    "გამარჯობა მსოფლიო",
    "안녕하세요, 세계",
    "ሰላም ልዑል",
    "ᎣᏏᏲ",
    "សួស្តីពិភពលោក",
    "ᠰᠠᠶᠢᠨ",
    "こんにちは、カタカナ。",
    "你好,世界。请帮帮我。",
    "“quoted” — it’s… 5 € ≥ 3 ²½",
    "😀👩‍💻🎉🇺🇳",
    "𝒜𝔟𝓬 𠀀",
    "a\u{a0}b\u{200b}c\u{ad}d",
];

/// Something that a user may say.
pub(super) struct Said {
    pub(super) name: String,
    pub(super) content: String,
    /// Holds a tag or a switch, which templates rightly look for.
    pub(super) tag: bool,
}

impl Tried {
    /// What is tried.
    pub(super) fn said(&self) -> Vec<Said> {
        let word = self.word.as_str();
        let words = |n: usize| vec![word; n].join(" ");
        let mut said: Vec<Said> = [2, 10, 100, 300, 1000, 10_000]
            .map(|n| Said { name: format!("{n} words"), content: words(n), tag: false })
            .into();
        if let Some(number) = self.asked.numbers.last().filter(|number| **number > LONGEST) {
            self.leave(format!("it has the number {number}, and no text has over {LONGEST} characters"));
        }
        let numbers = self.asked.numbers.iter().copied().filter(|number| *number <= LONGEST).collect();
        let mut all = 0;
        for number in self.at_most(MOST_NUMBERS, "numbers", numbers) {
            all += number;
            if all > MOST_CHARACTERS {
                self.leave(format!("it has many large numbers, of which those below {number} were tried as lengths"));
                break;
            }
            let characters = [number.saturating_sub(1), number, number + 1].into_iter().filter(|n| *n > 0);
            said.extend(characters.map(|n| {
                let content = word.chars().cycle().take(n).collect();
                Said { name: format!("{n} characters"), content, tag: false }
            }));
            let n = number + 1;
            if n <= MOST_WORDS {
                said.push(Said { name: format!("{n} words"), content: words(n), tag: false });
            } else {
                self.leave(format!("it has the number {number}, and no text has over {MOST_WORDS} words"));
            }
        }
        let characters = CHARACTERS.chars().map(String::from).collect::<Vec<_>>();
        let own = self.at_most(MOST_TRIED, "texts", self.own.iter().map(String::as_str).collect());
        let others = characters.iter().map(String::as_str).chain([ENGLISH]).chain(ELSEWHERE.iter().copied());
        for text in own.into_iter().chain(others) {
            let (name, tag) = (format!("{text:?}"), is_tag(text));
            said.push(Said { name: name.clone(), content: format!("{word} {text} {word}"), tag });
            // White space at the ends is what templates cut off.
            if !text.trim().is_empty() {
                said.push(Said { name, content: text.trim().to_owned(), tag });
            }
        }
        said
    }

    /// Its texts that may be words, as one.
    pub(super) fn own_words(&self) -> String {
        let is_plain = |c: char| c.is_alphanumeric() || " _.,:;@-".contains(c);
        let words = self.own.iter().map(|text| text.trim()).filter(|text| text.chars().all(is_plain));
        words.take(MOST_TRIED).collect::<Vec<_>>().join(" ")
    }
}

/// Tags and switches: `</think>`, `[INST]`, `/no_think`.
fn is_tag(text: &str) -> bool {
    let is_switch = |text: &str| text.chars().all(|c| c.is_alphanumeric() || c == '_');
    text.contains(['<', '>', '[', ']'])
        || text.trim().strip_prefix('/').is_some_and(|rest| rest.len() > 1 && is_switch(rest))
}
