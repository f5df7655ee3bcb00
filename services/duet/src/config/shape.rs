//! Which keys there are and what each takes, read off the types by deserialising them from nothing.

use std::cell::RefCell;

use serde::{
    Deserialize,
    de::{
        self, DeserializeSeed, IntoDeserializer, Visitor,
        value::{Error, MapDeserializer, SeqDeserializer},
    },
    forward_to_deserialize_any,
};

use super::Settings;

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    Integer,
    Float,
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Keys of the user's own.
    Table,
    List,
}

/// Every key with its kind, and every section, in the order of the types' fields.
#[derive(Debug, Default)]
pub(crate) struct Shape {
    keys: Vec<(String, Kind)>,
    sections: Vec<String>,
}

impl Shape {
    /// Of everything that can be configured.
    pub(crate) fn of_settings() -> Self {
        let found = RefCell::new(Self::default());
        let probed = Settings::deserialize(Probe { path: String::new(), found: &found });
        // A test holds that every type takes the probe's values.
        debug_assert!(probed.is_ok(), "{probed:?}");
        found.into_inner()
    }

    /// Every key with its kind.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (&str, Kind)> {
        self.keys.iter().map(|(key, kind)| (key.as_str(), *kind))
    }

    /// What `key` takes, where it is one.
    pub(crate) fn kind(&self, key: &str) -> Option<Kind> {
        self.keys().find(|(own, _)| *own == key).map(|(_, kind)| kind)
    }

    /// Whether `path` is a section.
    pub(crate) fn is_section(&self, path: &str) -> bool {
        self.sections().any(|section| section == path)
    }

    /// Every section, outer ones before those within them.
    pub(crate) fn sections(&self) -> impl Iterator<Item = &str> {
        self.sections.iter().map(String::as_str)
    }

    /// The known name that is nearest to `wrong`: one of the same section if any is near, else any that ends alike.
    pub(crate) fn nearest(&self, wrong: &str) -> Option<String> {
        let (section, name) = wrong.rsplit_once('.').unwrap_or(("", wrong));
        let names = self.keys().map(|(key, _)| key).chain(self.sections());
        let siblings = names.filter_map(|key| {
            let rest = if section.is_empty() {
                key
            } else {
                key.strip_prefix(section)?.strip_prefix('.')?
            };
            let own = rest.split('.').next()?;
            Some((
                own.to_owned(),
                if section.is_empty() { own.to_owned() } else { format!("{section}.{own}") },
            ))
        });
        let anywhere = self
            .keys()
            .map(|(key, _)| (key.rsplit('.').next().unwrap_or(key).to_owned(), key.to_owned()));
        nearest_of(name, siblings).or_else(|| nearest_of(name, anywhere))
    }
}

/// The candidate whose short name is most like `wrong`, if any is like it at all.
pub(crate) fn nearest_of(
    wrong: &str,
    candidates: impl Iterator<Item = (String, String)>,
) -> Option<String> {
    candidates
        .map(|(short, full)| (strsim::normalized_damerau_levenshtein(wrong, &short), full))
        .filter(|(likeness, _)| *likeness >= 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, full)| full)
}

/// A deserializer that gives every type a harmless value and notes what was asked of it.
struct Probe<'a> {
    path: String,
    found: &'a RefCell<Shape>,
}

impl Probe<'_> {
    fn note(&self, kind: Kind) {
        self.found.borrow_mut().keys.push((self.path.clone(), kind));
    }
}

macro_rules! leaves {
    ($($method:ident $kind:ident $visit:ident $value:expr;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.note(Kind::$kind);
            visitor.$visit($value)
        })*
    };
}

impl<'de> de::Deserializer<'de> for Probe<'_> {
    type Error = Error;

    leaves! {
        deserialize_bool Bool visit_bool false;
        deserialize_i8 Integer visit_i8 1;
        deserialize_i16 Integer visit_i16 1;
        deserialize_i32 Integer visit_i32 1;
        deserialize_i64 Integer visit_i64 1;
        deserialize_u8 Integer visit_u8 1;
        deserialize_u16 Integer visit_u16 1;
        deserialize_u32 Integer visit_u32 1;
        deserialize_u64 Integer visit_u64 1;
        deserialize_f32 Float visit_f32 0.5;
        deserialize_f64 Float visit_f64 0.5;
        deserialize_str Text visit_str "";
        deserialize_string Text visit_str "";
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note(Kind::Table);
        visitor.visit_map(MapDeserializer::new(std::iter::empty::<(&str, &str)>()))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note(Kind::List);
        visitor.visit_seq(SeqDeserializer::new(std::iter::empty::<&str>()))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if !self.path.is_empty() {
            self.found.borrow_mut().sections.push(self.path.clone());
        }
        visitor.visit_map(Fields { probe: self, fields: fields.iter(), current: "" })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.note(Kind::Word(variants));
        let first: &str = variants.first().copied().unwrap_or_default();
        visitor.visit_enum(IntoDeserializer::<Error>::into_deserializer(first))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(de::Error::custom(format_args!("{} has no fixed type", self.path)))
    }

    forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

/// A struct's fields, each given a probe of its own.
struct Fields<'a> {
    probe: Probe<'a>,
    fields: std::slice::Iter<'static, &'static str>,
    current: &'static str,
}

impl<'de> de::MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some(field) = self.fields.next() else { return Ok(None) };
        self.current = field;
        seed.deserialize(IntoDeserializer::<Error>::into_deserializer(*field)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let path = match self.probe.path.as_str() {
            "" => self.current.to_owned(),
            outer => format!("{outer}.{}", self.current),
        };
        seed.deserialize(Probe { path, found: self.probe.found })
    }
}
