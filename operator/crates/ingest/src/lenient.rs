//! Values as the versions of a tool write them: a number as a string or the reverse, a scalar where another version has a
//! list, and many ways to say that something is unknown.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Most elements of one list that is kept as it is read: no report has so many, and an empty element takes a hundred times
/// the memory of its text.
const ELEMENTS: usize = 100_000;

/// A text that says something: not empty, and not Falco's `<NA>`.
pub(crate) fn known(text: &str) -> Option<&str> {
    let text = text.trim();
    (!text.is_empty() && !text.eq_ignore_ascii_case("<NA>")).then_some(text)
}

/// The text of a scalar, or the first of a list that says something.
pub(crate) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => known(text).map(str::to_owned),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(bool) => Some(bool.to_string()),
        Value::Array(items) => items.iter().find_map(text),
        Value::Null | Value::Object(_) => None,
    }
}

/// A field by its name, in whatever case it is written.
pub(crate) fn field<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let found =
        fields.get(name).or_else(|| fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v));
    found.filter(|value| !value.is_null())
}

/// The text of the first of these fields that says something.
pub(crate) fn first_text(fields: &Map<String, Value>, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| field(fields, name).and_then(text))
}

/// A field that holds a text, whatever it is written as; empty where it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Text(pub(crate) String);

impl Text {
    pub(crate) fn known(&self) -> Option<&str> {
        known(&self.0)
    }

    /// The text, or an empty one where it says nothing.
    pub(crate) fn get(&self) -> String {
        self.known().unwrap_or_default().to_owned()
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_unit<E>(self) -> Result<Text, E> {
        Ok(Text::default())
    }

    fn visit_bool<E>(self, value: bool) -> Result<Text, E> {
        Ok(Text(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Text, E> {
        Ok(Text(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Text, E> {
        Ok(Text(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Text, E> {
        Ok(Text(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Text, E> {
        Ok(Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Text, A::Error> {
        let mut first = Text::default();
        while let Some(item) = seq.next_element::<Text>()? {
            if first.known().is_none() {
                first = item;
            }
        }
        Ok(first)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Text::default())
    }
}

/// A field that holds a list: also none of it, or one element without the list around it.
#[derive(Clone, Debug)]
pub(crate) struct List<T>(pub(crate) Vec<T>);

// Derived, it would ask for a default of the elements.
impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> IntoIterator for List<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor(PhantomData))
    }
}

struct ListVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
    type Value = List<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_unit<E>(self) -> Result<List<T>, E> {
        Ok(List::default())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<List<T>, E> {
        match known(value) {
            None => Ok(List::default()),
            Some(value) => T::deserialize(StrDeserializer::new(value)).map(|one| List(vec![one])),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element::<Option<T>>()? {
            if list.len() == ELEMENTS {
                return Err(A::Error::custom(format_args!("more than {ELEMENTS} elements in one list")));
            }
            list.extend(item);
        }
        Ok(List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<List<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(|one| List(vec![one]))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_says_nothing_is_unknown() {
        for value in
            [json!(null), json!(""), json!(" "), json!("<NA>"), json!("<na>"), json!([]), json!([null, ""]), json!({})]
        {
            assert_eq!(text(&value), None, "{value}");
            assert_eq!(serde_json::from_value::<Text>(value).unwrap().get(), "");
        }
    }

    #[test]
    fn a_scalar_is_its_text_and_a_list_its_first() {
        for (value, expected) in
            [(json!(" a "), "a"), (json!(3), "3"), (json!(true), "true"), (json!(["<NA>", "b", "c"]), "b")]
        {
            assert_eq!(text(&value).as_deref(), Some(expected));
            assert_eq!(serde_json::from_value::<Text>(value).unwrap().get(), expected);
        }
    }

    #[test]
    fn a_list_may_be_one_or_none_and_nothing_else() {
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Item {
            a: Text,
        }
        let items = |value: Value| -> Vec<String> {
            serde_json::from_value::<List<Item>>(value).unwrap().into_iter().map(|item| item.a.0).collect()
        };
        assert_eq!(items(json!([{"a": 1}, null, {}])), ["1", ""]);
        assert_eq!(items(json!({"a": "x"})), ["x"]);
        assert!(items(json!(null)).is_empty() && items(json!("")).is_empty());
        assert!(serde_json::from_value::<List<Item>>(json!(7)).is_err());
        assert_eq!(serde_json::from_value::<List<Text>>(json!("x")).unwrap().0, [Text("x".to_owned())]);
    }

    #[test]
    fn a_list_longer_than_any_report_has_is_refused() {
        let list = |length: usize| serde_json::from_str::<List<Text>>(&format!("[{}0]", "0,".repeat(length - 1)));
        assert_eq!(list(ELEMENTS).unwrap().0.len(), ELEMENTS);
        assert!(list(ELEMENTS + 1).unwrap_err().to_string().starts_with("more than 100000 elements"));
    }

    #[test]
    fn a_field_is_found_in_any_case_and_null_is_no_field() {
        let Value::Object(fields) = json!({"Rule": "a", "priority": null}) else { panic!("an object") };
        assert_eq!(first_text(&fields, &["priority", "rule"]).as_deref(), Some("a"));
        assert!(field(&fields, "priority").is_none());
    }
}
