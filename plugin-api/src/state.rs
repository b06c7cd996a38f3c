//! State that is kept across upgrades: exported by the old generation and imported by the new one, in one turn.

use std::{cell::RefCell, rc::Rc};

use ciborium::Value;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::{Error, Result},
    service::{from_cbor, to_cbor},
};

/// One named piece of kept state.
pub(crate) trait KeptState {
    fn name(&self) -> &str;

    /// Its value, in its version.
    fn export(&self) -> Result<(u32, Value)>;

    /// Takes what another generation exported.
    fn import(&self, version: u32, value: Value) -> Result<()>;
}

/// A value as an earlier version of the plugin kept it: for reading by a type of that version.
#[derive(Clone, Debug)]
pub struct OldState(Value);

impl OldState {
    pub(crate) fn new(value: Value) -> OldState {
        OldState(value)
    }

    /// Reads it as a `T`.
    ///
    /// # Errors
    /// When it is none.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T> {
        self.0
            .deserialized()
            .map_err(|error| Error::new(format!("it is of another shape: {error}")))
    }
}

/// Turns what another version kept into what this one keeps.
pub(crate) type Migrate<T> = Box<dyn Fn(u32, OldState) -> Result<T>>;

pub(crate) struct Kept<T> {
    pub(crate) name: String,
    pub(crate) version: u32,
    pub(crate) value: Rc<RefCell<T>>,
    pub(crate) migrate: Option<Migrate<T>>,
}

impl<T: Serialize + DeserializeOwned + 'static> KeptState for Kept<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn export(&self) -> Result<(u32, Value)> {
        let value = Value::serialized(&*self.value.borrow()).map_err(|error| {
            Error::new(format!("cannot export the state {}: {error}", self.name))
        })?;
        Ok((self.version, value))
    }

    fn import(&self, version: u32, value: Value) -> Result<()> {
        let old = OldState(value);
        let value = match &self.migrate {
            Some(migrate) if version != self.version => migrate(version, old),
            // Fields that are unknown are ignored, so another version is often readable as it is.
            _ => old.read(),
        };
        *self.value.borrow_mut() = value.map_err(|error| {
            error.context(format!("cannot import the state {} of version {version}", self.name))
        })?;
        Ok(())
    }
}

/// All of it as one CBOR map from name to `{v: version, d: value}`; empty bytes if there is none.
pub(crate) fn export(states: &[Rc<dyn KeptState>]) -> Result<Vec<u8>> {
    if states.is_empty() {
        return Ok(Vec::new());
    }
    let mut map = Vec::with_capacity(states.len());
    for state in states {
        let (version, value) = state.export()?;
        let entry = Value::Map(vec![
            (Value::Text("v".to_owned()), Value::Integer(version.into())),
            (Value::Text("d".to_owned()), value),
        ]);
        map.push((Value::Text(state.name().to_owned()), entry));
    }
    to_cbor(&Value::Map(map))
}

/// Takes what [`export`] wrote. State that this generation does not know is left out.
pub(crate) fn import(states: &[Rc<dyn KeptState>], bytes: &[u8]) -> Result<()> {
    let Value::Map(map) = from_cbor(bytes)? else {
        return Err(Error::new("the kept state is not a CBOR map"));
    };
    for (name, entry) in map {
        let Some(state) = states.iter().find(|state| Some(state.name()) == name.as_text()) else {
            continue;
        };
        let Value::Map(fields) = entry else {
            return Err(Error::new(format!("the kept state {} is not a CBOR map", state.name())));
        };
        let (mut version, mut data) = (None, None);
        for (key, value) in fields {
            match key.as_text() {
                Some("v") => version = value.as_integer().and_then(|v| u32::try_from(v).ok()),
                Some("d") => data = Some(value),
                _ => {}
            }
        }
        let (Some(version), Some(data)) = (version, data) else {
            let text = format!("the kept state {} lacks its version or its value", state.name());
            return Err(Error::new(text));
        };
        state.import(version, data)?;
    }
    Ok(())
}
