//! A serializer to JSON that leaves out secrets by the names of their fields, whatever the record:
//! one that is added later is covered without anybody thinking of it.

use serde::ser::{self, Serialize};
use serde_json::{Error, Map, Value, value::Serializer as Plain};

/// In place of what is left out.
const REDACTED: &str = "[redacted]";

/// A field whose name has one of these words holds a secret, or something to try guesses against.
const WORDS: [&str; 12] = [
    "secret",
    "secrets",
    "sealed",
    "password",
    "hash",
    "hashes",
    "token",
    "credential",
    "credentials",
    "private",
    "salt",
    "seed",
];

fn is_secret(field: &str) -> bool {
    field.split('_').any(|word| WORDS.contains(&word))
}

fn field(key: &'static str, value: &(impl Serialize + ?Sized)) -> Result<Value, Error> {
    if is_secret(key) {
        return Ok(REDACTED.into());
    }
    value.serialize(ToJson)
}

fn hex(bytes: &[u8]) -> Value {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _written = write!(text, "{byte:02x}");
    }
    text.into()
}

/// The serializer.
#[derive(Debug, Clone, Copy)]
pub(super) struct ToJson;

/// A sequence, or a variant with one.
pub(super) struct List {
    variant: Option<&'static str>,
    items: Vec<Value>,
}

/// A struct or map, or a variant with one.
pub(super) struct Object {
    variant: Option<&'static str>,
    fields: Map<String, Value>,
    key: String,
}

fn wrap(variant: Option<&'static str>, value: Value) -> Value {
    match variant {
        Some(name) => Value::Object(Map::from_iter([(name.to_owned(), value)])),
        None => value,
    }
}

fn list(variant: Option<&'static str>) -> List {
    List {
        variant,
        items: Vec::new(),
    }
}

fn object(variant: Option<&'static str>) -> Object {
    Object {
        variant,
        fields: Map::new(),
        key: String::new(),
    }
}

macro_rules! plainly {
    ($($method:ident: $type:ty),*) => {
        $(fn $method(self, value: $type) -> Result<Value, Error> {
            Plain.$method(value)
        })*
    };
}

impl ser::Serializer for ToJson {
    type Ok = Value;
    type Error = Error;
    type SerializeSeq = List;
    type SerializeTuple = List;
    type SerializeTupleStruct = List;
    type SerializeTupleVariant = List;
    type SerializeMap = Object;
    type SerializeStruct = Object;
    type SerializeStructVariant = Object;

    plainly!(
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32,
        serialize_i64: i64, serialize_i128: i128, serialize_u8: u8, serialize_u16: u16,
        serialize_u32: u32, serialize_u64: u64, serialize_f32: f32, serialize_f64: f64,
        serialize_char: char, serialize_str: &str
    );

    fn serialize_u128(self, value: u128) -> Result<Value, Error> {
        Ok(format!("{value:032x}").into())
    }
    fn serialize_bytes(self, value: &[u8]) -> Result<Value, Error> {
        Ok(hex(value))
    }
    fn serialize_none(self) -> Result<Value, Error> {
        Ok(Value::Null)
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Value, Error> {
        value.serialize(self)
    }
    fn serialize_unit(self) -> Result<Value, Error> {
        Ok(Value::Null)
    }
    fn serialize_unit_struct(self, _: &'static str) -> Result<Value, Error> {
        Ok(Value::Null)
    }
    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<Value, Error> {
        Ok(variant.into())
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<Value, Error> {
        let value = value.serialize(self)?;
        // An id: 128 bits under a name of their own.
        let id = value
            .as_str()
            .filter(|text| name.ends_with("Id") && text.len() == 32)
            .and_then(|text| u128::from_str_radix(text, 16).ok());
        Ok(match id {
            Some(id) => uuid::Uuid::from_u128(id).to_string().into(),
            None => value,
        })
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Value, Error> {
        Ok(wrap(Some(variant), value.serialize(self)?))
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<List, Error> {
        Ok(list(None))
    }
    fn serialize_tuple(self, _: usize) -> Result<List, Error> {
        Ok(list(None))
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<List, Error> {
        Ok(list(None))
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<List, Error> {
        Ok(list(Some(variant)))
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Object, Error> {
        Ok(object(None))
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Object, Error> {
        Ok(object(None))
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Object, Error> {
        Ok(object(Some(variant)))
    }
}

macro_rules! a_list {
    ($($of:ident $add:ident),*) => {
        $(impl ser::$of for List {
            type Ok = Value;
            type Error = Error;
            fn $add<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
                self.items.push(value.serialize(ToJson)?);
                Ok(())
            }
            fn end(self) -> Result<Value, Error> {
                Ok(wrap(self.variant, Value::Array(self.items)))
            }
        })*
    };
}

a_list!(
    SerializeSeq serialize_element, SerializeTuple serialize_element,
    SerializeTupleStruct serialize_field, SerializeTupleVariant serialize_field
);

macro_rules! an_object {
    ($($of:ident),*) => {
        $(impl ser::$of for Object {
            type Ok = Value;
            type Error = Error;
            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                key: &'static str,
                value: &T,
            ) -> Result<(), Error> {
                self.fields.insert(key.to_owned(), field(key, value)?);
                Ok(())
            }
            fn end(self) -> Result<Value, Error> {
                Ok(wrap(self.variant, Value::Object(self.fields)))
            }
        })*
    };
}

an_object!(SerializeStruct, SerializeStructVariant);

impl ser::SerializeMap for Object {
    type Ok = Value;
    type Error = Error;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        self.key = match key.serialize(ToJson)? {
            Value::String(text) => text,
            other => other.to_string(),
        };
        Ok(())
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        let key = std::mem::take(&mut self.key);
        let value = if is_secret(&key) {
            REDACTED.into()
        } else {
            value.serialize(ToJson)?
        };
        self.fields.insert(key, value);
        Ok(())
    }
    fn end(self) -> Result<Value, Error> {
        Ok(wrap(self.variant, Value::Object(self.fields)))
    }
}
