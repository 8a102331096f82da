//! JSON whose every member is seen: in order, with duplicates, and of whatever type.

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// Calls `each` with the members of the object that `text` is, one after the other, so that no more than one is held.
pub(crate) fn each_member<'de, T: Deserialize<'de>>(
    text: &'de str,
    each: &mut dyn FnMut(String, T),
) -> Result<(), serde_json::Error> {
    struct V<'a, T>(&'a mut dyn FnMut(String, T));
    impl<'de, T: Deserialize<'de>> Visitor<'de> for V<'_, T> {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            while let Some(key) = map.next_key::<String>()? {
                let value = map.next_value().map_err(|e| A::Error::custom(format_args!("{key:?}: {e}")))?;
                (self.0)(key, value);
            }
            Ok(())
        }
    }
    let mut json = serde_json::Deserializer::from_str(text);
    json.deserialize_map(V(each))?;
    json.end()
}

/// Any JSON value, kept as far as a safetensors header has use for it: what it has none for is read over.
pub(crate) enum LooseJson {
    Text(String),
    /// A list of whole numbers, [`LooseJson::LONGEST`] at most.
    Whole(Vec<u64>),
    /// An object, of which objects within are read over.
    Object(Vec<(String, LooseJson)>),
    /// Anything else, by what it is called.
    Other(&'static str),
}

impl LooseJson {
    /// More dimensions than this no tensor library takes: a longer list would only take memory.
    pub const LONGEST: usize = 64;

    /// What kind of value it is.
    pub fn kind(&self) -> &'static str {
        match self {
            LooseJson::Text(_) => "text",
            LooseJson::Whole(_) => "a list of whole numbers",
            LooseJson::Object(_) => "an object",
            LooseJson::Other(kind) => kind,
        }
    }
}

impl<'de> Deserialize<'de> for LooseJson {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Levels(1).deserialize(d)
    }
}

/// How many levels of objects are kept.
#[derive(Clone, Copy)]
struct Levels(u8);

impl<'de> DeserializeSeed<'de> for Levels {
    type Value = LooseJson;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<LooseJson, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Levels {
    type Value = LooseJson;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, _: bool) -> Result<LooseJson, E> {
        Ok(LooseJson::Other("a truth value"))
    }
    fn visit_i64<E>(self, _: i64) -> Result<LooseJson, E> {
        Ok(LooseJson::Other("a number"))
    }
    fn visit_u64<E>(self, _: u64) -> Result<LooseJson, E> {
        Ok(LooseJson::Other("a number"))
    }
    fn visit_f64<E>(self, _: f64) -> Result<LooseJson, E> {
        Ok(LooseJson::Other("a number"))
    }
    fn visit_unit<E>(self) -> Result<LooseJson, E> {
        Ok(LooseJson::Other("null"))
    }
    fn visit_str<E>(self, text: &str) -> Result<LooseJson, E> {
        Ok(LooseJson::Text(text.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<LooseJson, A::Error> {
        let mut numbers = Vec::new();
        let mut whole = true;
        while let Some(number) = list.next_element()? {
            match number {
                Number::Whole(number) if whole && numbers.len() < LooseJson::LONGEST => numbers.push(number),
                _ => whole = false,
            }
        }
        Ok(if whole { LooseJson::Whole(numbers) } else { LooseJson::Other("another list") })
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LooseJson, A::Error> {
        let Some(inner) = self.0.checked_sub(1) else {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(LooseJson::Other("an object"));
        };
        let mut entries = Vec::new();
        while let Some(key) = map.next_key()? {
            entries.push((key, map.next_value_seed(Levels(inner))?));
        }
        Ok(LooseJson::Object(entries))
    }
}

/// A number, kept as far as it is written as one that is whole or not; anything else is read over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Number {
    Whole(u64),
    Real(f64),
    Other,
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Number;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a JSON value")
            }
            fn visit_u64<E>(self, number: u64) -> Result<Number, E> {
                Ok(Number::Whole(number))
            }
            fn visit_f64<E>(self, number: f64) -> Result<Number, E> {
                Ok(Number::Real(number))
            }
            fn visit_i64<E>(self, _: i64) -> Result<Number, E> {
                Ok(Number::Other)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Number, E> {
                Ok(Number::Other)
            }
            fn visit_str<E>(self, _: &str) -> Result<Number, E> {
                Ok(Number::Other)
            }
            fn visit_unit<E>(self) -> Result<Number, E> {
                Ok(Number::Other)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Number, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Number::Other)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Number, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Number::Other)
            }
        }
        d.deserialize_any(V)
    }
}
