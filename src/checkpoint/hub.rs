//! stub
use crate::error::*;
use crate::progress::Progress;
use std::path::*;
#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq)]
pub struct HubId(String);
impl std::str::FromStr for HubId {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        Ok(HubId(s.into()))
    }
}
#[allow(missing_docs)]
pub struct HubSettings;
#[allow(missing_docs)]
impl HubSettings {
    pub fn from_env() -> Result<Self> {
        Ok(HubSettings)
    }
}
#[allow(missing_docs)]
pub fn fetch(_: &HubId, _: &HubSettings, _: &dyn Progress) -> Result<PathBuf> {
    Err(Error::input("stub"))
}
