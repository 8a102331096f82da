//! The signature file: a Sigstore bundle v0.3 around a DSSE envelope.
//!
//! <https://docs.sigstore.dev/about/bundle/>, <https://github.com/secure-systems-lab/dsse>

use crate::error::{Error, Result};
use crate::files;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::path::Path;

/// The largest signature file that is read, in bytes.
pub(super) const LARGEST: u64 = 64 << 20;

/// Certificates that are looked at, at most: paths among more of them take long to search.
const LONGEST_CHAIN: usize = 16;

const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// A signed payload and what the signature says of its key.
#[derive(Debug, PartialEq)]
pub(super) struct Bundle {
    /// Whose signature it says it is.
    pub(super) material: Material,
    /// What was signed, as received.
    pub(super) payload: Vec<u8>,
    /// DER.
    pub(super) signature: Vec<u8>,
}

/// Whose signature a bundle says it is.
#[derive(Debug, PartialEq)]
pub(super) enum Material {
    /// A key by its hint; none in bundles before model_signing 1.1.
    Key(Option<String>),
    /// Certificates in DER, the signer's first; never empty.
    Certificates(Vec<Vec<u8>>),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    #[serde(borrow)]
    media_type: Cow<'a, str>,
    #[serde(borrow)]
    verification_material: WireMaterial<'a>,
    #[serde(borrow)]
    dsse_envelope: Option<Envelope<'a>>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireMaterial<'a> {
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    public_key: Option<KeyHint<'a>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    x509_certificate_chain: Option<Chain<'a>>,
    /// What Fulcio issues for minutes.
    #[serde(skip_serializing)]
    certificate: Option<IgnoredAny>,
    #[serde(default, serialize_with = "empty_list")]
    tlog_entries: Option<Vec<IgnoredAny>>,
}

#[derive(Serialize, Deserialize)]
struct KeyHint<'a> {
    #[serde(borrow)]
    hint: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
struct Chain<'a> {
    #[serde(borrow)]
    certificates: Vec<RawCertificate<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawCertificate<'a> {
    #[serde(borrow)]
    raw_bytes: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    #[serde(borrow)]
    payload: Cow<'a, str>,
    #[serde(borrow)]
    payload_type: Cow<'a, str>,
    #[serde(borrow)]
    signatures: Vec<EnvelopeSignature<'a>>,
}

#[derive(Serialize, Deserialize)]
struct EnvelopeSignature<'a> {
    #[serde(borrow)]
    sig: Cow<'a, str>,
    #[serde(skip_deserializing)]
    keyid: &'static str,
}

fn empty_list<S: serde::Serializer>(_: &Option<Vec<IgnoredAny>>, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.collect_seq(std::iter::empty::<()>())
}

impl Bundle {
    /// Reads a signature file.
    ///
    /// # Errors
    /// It cannot be read, is larger than 64 MiB, or is not a model signature by a key or a certificate.
    pub(super) fn read(path: &Path) -> Result<Bundle> {
        let bytes = files::read_at_most(path, LARGEST)?;
        Bundle::parse(&bytes).map_err(|problem| Error::file(path, problem))
    }

    /// The bundle that a signature file holds, or what is wrong with it.
    pub(super) fn parse(file: &[u8]) -> std::result::Result<Bundle, String> {
        const EXPECTED: &str = "expected a Sigstore bundle (v0.3) around a model's signature";
        let wire: Wire =
            serde_json::from_slice(file).map_err(|e| format!("is not a model signature: {e}; {EXPECTED}"))?;
        let found = &wire.verification_material;
        if found.certificate.is_some() || found.tlog_entries.as_ref().is_some_and(|entries| !entries.is_empty()) {
            return Err("is a keyless (Sigstore) signature, which is not verified here: that needs the signer's \
                        identity, its provider and Sigstore's trust root; use `python -m model_signing verify \
                        sigstore`, or sign with a key"
                .to_owned());
        }
        if wire.media_type != MEDIA_TYPE {
            return Err(format!("is a bundle of the type {:?}, expected {MEDIA_TYPE}", wire.media_type));
        }
        let Some(envelope) = &wire.dsse_envelope else {
            return Err(format!("holds no dsseEnvelope; {EXPECTED}"));
        };
        if envelope.payload_type != PAYLOAD_TYPE {
            return Err(format!("holds a payload of the type {:?}, expected {PAYLOAD_TYPE}", envelope.payload_type));
        }
        let [signature] = envelope.signatures.as_slice() else {
            return Err(format!("holds {} signatures, expected one", envelope.signatures.len()));
        };
        let decode =
            |what: &str, text: &str| STANDARD.decode(text).map_err(|e| format!("its {what} is not base64: {e}"));
        let material = match (&found.public_key, &found.x509_certificate_chain) {
            (Some(key), None) => Material::Key(key.hint.as_ref().filter(|h| !h.is_empty()).map(|h| h.to_string())),
            (None, Some(chain)) if chain.certificates.len() > LONGEST_CHAIN => {
                let found = chain.certificates.len();
                return Err(format!("holds {found} certificates, expected at most {LONGEST_CHAIN}"));
            }
            (None, Some(chain)) if !chain.certificates.is_empty() => {
                let certificates = chain.certificates.iter().map(|c| decode("certificate", &c.raw_bytes));
                Material::Certificates(certificates.collect::<std::result::Result<_, _>>()?)
            }
            (Some(_), Some(_)) => return Err("names both a key and certificates, expected one of them".to_owned()),
            _ => return Err("names neither a key nor a certificate, expected one of them".to_owned()),
        };
        Ok(Bundle {
            material,
            payload: decode("payload", &envelope.payload)?,
            signature: decode("signature", &signature.sig)?,
        })
    }

    /// The signature file's bytes.
    pub(super) fn to_json(&self) -> Result<Vec<u8>> {
        let mut material = WireMaterial::default();
        match &self.material {
            Material::Key(hint) => material.public_key = Some(KeyHint { hint: hint.as_deref().map(Cow::from) }),
            Material::Certificates(all) => {
                let raw = |der: &Vec<u8>| RawCertificate { raw_bytes: STANDARD.encode(der).into() };
                material.x509_certificate_chain = Some(Chain { certificates: all.iter().map(raw).collect() });
            }
        }
        let wire = Wire {
            media_type: MEDIA_TYPE.into(),
            verification_material: material,
            dsse_envelope: Some(Envelope {
                payload: STANDARD.encode(&self.payload).into(),
                payload_type: PAYLOAD_TYPE.into(),
                signatures: vec![EnvelopeSignature { sig: STANDARD.encode(&self.signature).into(), keyid: "" }],
            }),
        };
        let mut json =
            serde_json::to_vec(&wire).map_err(|e| Error::input(format!("the signature cannot be written: {e}")))?;
        json.push(b'\n');
        Ok(json)
    }
}

/// What is signed for a payload, as the beginning before it: DSSE's pre-authentication encoding.
pub(super) fn pae_prefix(payload: &[u8]) -> String {
    format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len())
}
