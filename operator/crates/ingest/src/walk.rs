//! Ways through the JSON of tools whose key case, nesting and types differ between versions.

use serde_json::{Map, Value};

use crate::json::{Object, kind_of};
use crate::lenient::{field, text};
use crate::{ImageRef, Unreadable};

/// The fields of an object.
pub(crate) type Fields = Map<String, Value>;

/// The value at the end of a way of keys, in whatever case they are written; `null` is none.
pub(crate) fn at<'a>(fields: &'a Fields, way: &[&str]) -> Option<&'a Value> {
    let (last, before) = way.split_last()?;
    let mut here = fields;
    for key in before {
        here = field(here, key)?.as_object()?;
    }
    field(here, last)
}

/// The text at the end of a way, or the first of a list's that says something.
pub(crate) fn text_at(fields: &Fields, way: &[&str]) -> Option<String> {
    at(fields, way).and_then(text)
}

/// The object at the end of a way.
pub(crate) fn object_at<'a>(fields: &'a Fields, way: &[&str]) -> Option<&'a Fields> {
    at(fields, way).and_then(Value::as_object)
}

/// The number at the end of a way, which may be written as a text.
pub(crate) fn number_at(fields: &Fields, way: &[&str]) -> Option<f64> {
    text_at(fields, way)?.parse().ok().filter(|number: &f64| number.is_finite())
}

/// Whether the value at the end of a way is true, or a text that says so.
pub(crate) fn is_true(fields: &Fields, way: &[&str]) -> bool {
    text_at(fields, way).is_some_and(|text| text.eq_ignore_ascii_case("true"))
}

/// The values of a list, or the one value without the list around it.
pub(crate) fn values_at<'a>(fields: &'a Fields, way: &[&str]) -> &'a [Value] {
    match at(fields, way) {
        None => &[],
        Some(Value::Array(values)) => values,
        Some(one) => std::slice::from_ref(one),
    }
}

/// The objects of a list, or the one object without the list around it.
pub(crate) fn objects_at<'a>(fields: &'a Fields, way: &[&str]) -> impl Iterator<Item = &'a Fields> + use<'a> {
    values_at(fields, way).iter().filter_map(Value::as_object)
}

/// The texts of a list, or the one text without the list around it.
pub(crate) fn texts_at(fields: &Fields, way: &[&str]) -> Vec<String> {
    values_at(fields, way).iter().filter_map(text).collect()
}

/// The objects of a list that a report is made of, each with its place. Something else in its stead is an error: nothing of a report is left
/// out in silence. `None` where there is no such field.
pub(crate) fn items<'a>(
    object: &Object,
    fields: &'a Fields,
    name: &str,
) -> Result<Option<Vec<(String, &'a Fields)>>, Unreadable> {
    let Some(value) = field(fields, name) else { return Ok(None) };
    let wrong = |at: String, value: &Value, wanted: &str| {
        Err(Unreadable::new(object.at(&at), format!("{wanted} was expected, this is {}", kind_of(value))))
    };
    match value {
        Value::Object(one) => Ok(Some(vec![(name.to_owned(), one)])),
        Value::Array(values) => {
            let mut items = Vec::with_capacity(values.len());
            for (index, value) in values.iter().enumerate() {
                let at = format!("{name}[{index}]");
                match value {
                    Value::Object(fields) => items.push((at, fields)),
                    Value::Null => {}
                    other => return wrong(at, other, "an object"),
                }
            }
            Ok(Some(items))
        }
        other => wrong(name.to_owned(), other, "a list"),
    }
}

/// These fields, as the tool wrote them, for the details of a signal.
pub(crate) fn pick(fields: &Fields, names: &[&str]) -> Fields {
    names.iter().filter_map(|name| Some(((*name).to_owned(), field(fields, name)?.clone()))).collect()
}

/// The image of a reference, where it says something that can be one.
pub(crate) fn image(reference: Option<String>) -> Option<ImageRef> {
    let reference = reference.filter(|text| text.len() <= 1024 && !text.contains(char::is_whitespace))?;
    Some(ImageRef::parse(&reference)).filter(|image| !image.reference.is_empty() || image.digest.is_some())
}

/// The runtime's id of a container, without the runtime's scheme; nothing for what is none, such as Falco's `host`.
pub(crate) fn container_id(said: &str) -> Option<String> {
    let id = said.rsplit_once("://").map_or(said, |(_, id)| id).trim();
    let fits = (12..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    fits.then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: Value) -> Fields {
        let Value::Object(fields) = value else { panic!("an object") };
        fields
    }

    #[test]
    fn a_way_is_found_in_any_case_and_through_objects_only() {
        let fields = fields(
            json!({"Service": {"Action": {"ActionType": "X"}, "n": "4.5"}, "list": [{"a": 1}], "one": {"a": 2}}),
        );
        assert_eq!(text_at(&fields, &["service", "action", "actionType"]).as_deref(), Some("X"));
        assert_eq!(number_at(&fields, &["Service", "n"]), Some(4.5));
        assert_eq!(at(&fields, &["list", "a"]), None);
        assert_eq!(at(&fields, &[]), None);
        assert_eq!(objects_at(&fields, &["list"]).count() + objects_at(&fields, &["one"]).count(), 2);
    }

    #[test]
    fn what_stands_where_a_list_should_is_refused_with_its_place() {
        let Value::Object(body) = json!({"matches": [{"a": 1}, null, 3], "one": {}, "text": "x"}) else { panic!() };
        let object = Object::whole(body.clone());
        assert_eq!(
            items(&object, &body, "matches").unwrap_err().to_string(),
            "matches[2]: an object was expected, this is a number"
        );
        assert_eq!(items(&object, &body, "text").unwrap_err().at, "text");
        assert_eq!(items(&object, &body, "one").unwrap().unwrap().len(), 1);
        assert!(items(&object, &body, "none").unwrap().is_none());
    }

    #[test]
    fn an_id_is_one_with_and_without_its_runtime() {
        assert_eq!(container_id("containerd://0123456789abcdef").as_deref(), Some("0123456789abcdef"));
        for text in ["host", "", "81a7701a194c3a******"] {
            assert_eq!(container_id(text), None, "{text}");
        }
    }
}
