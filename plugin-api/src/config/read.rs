//! Reads a configuration out of the CBOR map that the host passes.

use std::{path::PathBuf, time::Duration};

use ciborium::Value;

use crate::{
    config::{
        Config,
        schema::Kind,
        size::{Size, parse_duration, parse_size},
    },
    error::{Error, Result},
};

/// The fields of one table, as the host sent them.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(&'a [(Value, Value)]);

/// One field while it is read: its value and its bounds. Used by the derive.
#[derive(Debug)]
pub struct Reader<'a> {
    name: &'a str,
    value: Option<&'a Value>,
}

/// A type that a field of a [`Config`] may have.
pub trait ConfigValue: Sized + 'static {
    /// Its type in the schema.
    const KIND: Kind;

    /// Whether a field of it may be absent.
    const OPTIONAL: bool = false;

    /// Reads a value.
    ///
    /// # Errors
    /// What was expected instead.
    fn from_value(value: &Value) -> Result<Self>;

    /// What an absent field without a default is; `None` if it has to be there.
    #[must_use]
    fn absent() -> Option<Self> {
        None
    }

    /// The number that `min` and `max` bound, if the type has one.
    #[must_use]
    fn measure(&self) -> Option<f64> {
        None
    }

    /// The text that `one_of` looks at, if the type has one.
    #[must_use]
    fn word(&self) -> Option<&str> {
        None
    }
}

impl<'a> Fields<'a> {
    /// The table in `value`.
    ///
    /// # Errors
    /// When it is not one.
    pub fn new(value: &'a Value) -> Result<Fields<'a>> {
        match value {
            Value::Map(entries) => Ok(Fields(entries)),
            Value::Null => Ok(Fields(&[])),
            _ => Err(expected("a table", value)),
        }
    }

    /// The field `name`.
    #[must_use]
    pub fn field(&self, name: &'a str) -> Reader<'a> {
        let entry = self.0.iter().find(|(key, _)| key.as_text() == Some(name));
        let value = entry.map(|(_, value)| value).filter(|value| !value.is_null());
        Reader { name, value }
    }
}

impl Reader<'_> {
    /// Reads the field; `default` (JSON's kinds of value, as CBOR) stands for an absent one.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub fn read<T: ConfigValue>(
        &self,
        default: Option<Value>,
        bounds: (Option<f64>, Option<f64>),
        words: &[&str],
    ) -> Result<T> {
        let value = match (self.value, &default) {
            (Some(value), _) | (None, Some(value)) => {
                T::from_value(value).map_err(|error| self.wrong(&error.to_string()))?
            }
            (None, None) => T::absent().ok_or_else(|| self.wrong("it is missing"))?,
        };
        if let Some(measure) = value.measure() {
            if let Some(min) = bounds.0.filter(|min| measure < *min) {
                return Err(self.wrong(&format!("{measure} is less than {min}")));
            }
            if let Some(max) = bounds.1.filter(|max| measure > *max) {
                return Err(self.wrong(&format!("{measure} is more than {max}")));
            }
        }
        if let Some(word) = value.word()
            && !words.is_empty()
            && !words.contains(&word)
        {
            return Err(self.wrong(&format!("{word:?} is none of {}", words.join(", "))));
        }
        Ok(value)
    }

    fn wrong(&self, why: &str) -> Error {
        Error::new(format!("the configuration's `{}` is wrong: {why}", self.name))
    }
}

/// Reads a whole configuration.
pub(crate) fn read_config<T: Config>(value: &Value) -> Result<T> {
    T::read(&Fields::new(value)?)
}

fn expected(what: &str, value: &Value) -> Error {
    let found = match value {
        Value::Integer(_) => "an integer",
        Value::Bytes(_) => "bytes",
        Value::Float(_) => "a number",
        Value::Text(_) => "text",
        Value::Bool(_) => "true or false",
        Value::Null => "nothing",
        Value::Array(_) => "a list",
        Value::Map(_) => "a table",
        _ => "something else",
    };
    Error::new(format!("expected {what}, found {found}"))
}

impl ConfigValue for bool {
    const KIND: Kind = Kind::Bool;

    fn from_value(value: &Value) -> Result<bool> {
        value.as_bool().ok_or_else(|| expected("true or false", value))
    }
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl ConfigValue for $type {
            const KIND: Kind = Kind::Integer;

            fn from_value(value: &Value) -> Result<$type> {
                let integer = value.as_integer().ok_or_else(|| expected("an integer", value))?;
                let integer = i128::from(integer);
                <$type>::try_from(integer).map_err(|_| {
                    Error::new(format!("{integer} is not between {} and {}", <$type>::MIN, <$type>::MAX))
                })
            }

            fn measure(&self) -> Option<f64> {
                Some(*self as f64)
            }
        }
    )*};
}

integers!(u8, u16, u32, u64, usize, i8, i16, i32, i64, isize);

impl ConfigValue for f64 {
    const KIND: Kind = Kind::Float;

    fn from_value(value: &Value) -> Result<f64> {
        match value {
            Value::Float(float) => Ok(*float),
            Value::Integer(integer) => Ok(i128::from(*integer) as f64),
            _ => Err(expected("a number", value)),
        }
    }

    fn measure(&self) -> Option<f64> {
        Some(*self)
    }
}

impl ConfigValue for f32 {
    const KIND: Kind = Kind::Float;

    fn from_value(value: &Value) -> Result<f32> {
        f64::from_value(value).map(|float| float as f32)
    }

    fn measure(&self) -> Option<f64> {
        Some(f64::from(*self))
    }
}

impl ConfigValue for String {
    const KIND: Kind = Kind::String;

    fn from_value(value: &Value) -> Result<String> {
        value.as_text().map(str::to_owned).ok_or_else(|| expected("text", value))
    }

    fn measure(&self) -> Option<f64> {
        Some(self.len() as f64)
    }

    fn word(&self) -> Option<&str> {
        Some(self)
    }
}

impl ConfigValue for PathBuf {
    const KIND: Kind = Kind::Path;

    fn from_value(value: &Value) -> Result<PathBuf> {
        value.as_text().map(PathBuf::from).ok_or_else(|| expected("a path", value))
    }
}

impl ConfigValue for Size {
    const KIND: Kind = Kind::Size;

    fn from_value(value: &Value) -> Result<Size> {
        let bytes = match value {
            Value::Text(text) => parse_size(text),
            value => value.as_integer().and_then(|integer| u64::try_from(integer).ok()),
        };
        bytes.map(Size::from_bytes).ok_or_else(|| expected("a size such as \"64 KiB\"", value))
    }

    fn measure(&self) -> Option<f64> {
        Some(self.bytes() as f64)
    }
}

impl ConfigValue for Duration {
    const KIND: Kind = Kind::Duration;

    fn from_value(value: &Value) -> Result<Duration> {
        let ms = match value {
            Value::Text(text) => parse_duration(text),
            value => value.as_integer().and_then(|integer| u64::try_from(integer).ok()),
        };
        ms.map(Duration::from_millis).ok_or_else(|| expected("a duration such as \"30 s\"", value))
    }

    fn measure(&self) -> Option<f64> {
        Some(self.as_millis() as f64)
    }
}

impl<T: ConfigValue> ConfigValue for Vec<T> {
    const KIND: Kind = Kind::List(&T::KIND);
    const OPTIONAL: bool = true;

    fn from_value(value: &Value) -> Result<Vec<T>> {
        let items = value.as_array().ok_or_else(|| expected("a list", value))?;
        items.iter().map(T::from_value).collect()
    }

    fn absent() -> Option<Vec<T>> {
        Some(Vec::new())
    }

    fn measure(&self) -> Option<f64> {
        Some(self.len() as f64)
    }
}

impl<T: ConfigValue> ConfigValue for Option<T> {
    const KIND: Kind = T::KIND;
    const OPTIONAL: bool = true;

    fn from_value(value: &Value) -> Result<Option<T>> {
        T::from_value(value).map(Some)
    }

    fn absent() -> Option<Option<T>> {
        Some(None)
    }

    fn measure(&self) -> Option<f64> {
        self.as_ref()?.measure()
    }

    fn word(&self) -> Option<&str> {
        self.as_ref()?.word()
    }
}
