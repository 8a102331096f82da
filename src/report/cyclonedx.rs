//! A fingerprint as a machine-learning bill of materials: CycloneDX 1.5 (<https://cyclonedx.org/docs/1.5/json/>).

use crate::checkpoint::Opened;
use crate::checkpoint::hex;
use crate::checkpoint::hub::HubId;
use crate::checkpoint::model_card::ModelCard;
use crate::error::{Error, Result};
use crate::escape;
use crate::integrity::fingerprint::{Algorithm, FileRecord, Fingerprint, TensorRecord};
use crate::tool::Tool;
use cyclonedx_bom::models::bom::{Bom, SpecVersion, UrnUuid};
use cyclonedx_bom::models::component::{Classification, Component, Components, Pedigree};
use cyclonedx_bom::models::component_data::{ComponentData, ComponentDataType};
use cyclonedx_bom::models::dependency::{Dependencies, Dependency};
use cyclonedx_bom::models::hash::{Hash, HashAlgorithm, HashValue, Hashes};
use cyclonedx_bom::models::license::{License, LicenseChoice, Licenses};
use cyclonedx_bom::models::metadata::Metadata;
use cyclonedx_bom::models::modelcard::{Dataset, Datasets, ModelCard as CardOfBom, ModelParameters};
use cyclonedx_bom::models::property::{Properties, Property};
use cyclonedx_bom::models::tool::Tools;
use cyclonedx_bom::prelude::Validate;
use serde_json::Value;
use std::collections::BTreeMap;

/// What the model is called within the document.
const MODEL: &str = "model";

/// The model (architecture, quantization, license, base model, where it is known), its files with their SHA-256, and in
/// each file its tensors with their digests.
///
/// # Errors
/// What the document would say cannot be said in CycloneDX.
pub fn document(fingerprint: &Fingerprint, opened: &Opened, card: &ModelCard) -> Result<String> {
    let mut of_file: BTreeMap<&str, Vec<&TensorRecord>> = BTreeMap::new();
    for tensor in &fingerprint.tensors {
        of_file.entry(&tensor.file).or_default().push(tensor);
    }
    let file = |file: &FileRecord| {
        let tensors = of_file.remove(file.path.as_str()).unwrap_or_default();
        file_of(file, &tensors, fingerprint.algorithm)
    };
    let files: Vec<Component> = fingerprint.files.iter().map(file).collect();
    let of_model = Dependency {
        dependency_ref: MODEL.into(),
        dependencies: files.iter().filter_map(|file| file.bom_ref.clone()).collect(),
    };
    let cannot = |what: String| Error::input(format!("cannot write the bill of materials: {what}"));
    let metadata = Metadata::new().map_err(|e| cannot(e.to_string()))?;
    let Tool { name, version } = Tool::this();
    let tool = Component::new(Classification::Application, &name, &version, None);
    let tools = Tools::Object { services: None, components: Some(Components(vec![tool])) };
    let model = model(fingerprint, opened, card);
    let bom = Bom {
        serial_number: Some(UrnUuid::generate()),
        metadata: Some(Metadata { tools: Some(tools), component: Some(model), ..metadata }),
        components: Some(Components(files)),
        dependencies: Some(Dependencies(vec![of_model])),
        spec_version: SpecVersion::V1_5,
        ..Bom::default()
    };
    let problems = bom.validate();
    if let Some((problem, _)) = problems.errors().next() {
        return Err(cannot(problem));
    }
    let mut text = Vec::new();
    bom.output_as_json_v1_5(&mut text).map_err(|e| cannot(e.to_string()))?;
    let text = String::from_utf8(text).map_err(|e| cannot(e.to_string()))?;
    Ok(escape::json(&text) + "\n")
}

/// The model as a whole.
fn model(fingerprint: &Fingerprint, opened: &Opened, card: &ModelCard) -> Component {
    let config = opened.config().ok().flatten();
    let said = |key: &str| config.and_then(|config| config.map().get(key));
    let architecture = said("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
    let family = said("model_type").and_then(Value::as_str);
    let origin = opened.origin();
    let name = match origin {
        Some(origin) => origin.repository.clone(),
        None => {
            let place = opened.root().canonicalize().unwrap_or_else(|_| opened.root().to_owned());
            place.file_name().unwrap_or_default().to_string_lossy().into_owned()
        }
    };
    let tensors = hex(&fingerprint.tensors_digest());
    let version = origin.map_or(tensors.as_str(), |origin| &origin.commit);
    let mut told = vec![property(&format!("tensors:{}", fingerprint.algorithm.name()), &tensors)];
    for (format, count) in formats(fingerprint) {
        told.push(property("quantization", &format!("{format}: {count} weights")));
    }
    let ancestor = |base: &String| {
        let purl = base.parse().ok().and_then(|id| purl(&id, None));
        let relation = card.base_model_relation.iter().map(|relation| property("relation", relation)).collect();
        let base = component(Classification::MachineLearningModel, base, None);
        Component { purl, properties: Some(Properties(relation)), ..base }
    };
    let bases: Vec<Component> = card.base_model.iter().map(ancestor).collect();
    let pedigree = Pedigree {
        ancestors: Some(Components(bases)),
        descendants: None,
        variants: None,
        commits: None,
        patches: None,
        notes: None,
    };
    let dataset = |name: &String| {
        Dataset::Component(ComponentData {
            bom_ref: None,
            data_type: ComponentDataType::Dataset,
            name: Some(name.clone()),
            contents: None,
            classification: None,
            sensitive_data: None,
            graphics: None,
            description: None,
            governance: None,
        })
    };
    let datasets = card.datasets.iter().map(dataset).collect();
    let parameters = ModelParameters {
        approach: None,
        task: card.pipeline_tag.clone(),
        architecture_family: family.map(str::to_owned),
        model_architecture: architecture.map(str::to_owned),
        datasets: (!card.datasets.is_empty()).then_some(Datasets(datasets)),
        inputs: None,
        outputs: None,
    };
    let of_card = CardOfBom {
        bom_ref: None,
        model_parameters: Some(parameters),
        quantitative_analysis: None,
        considerations: None,
        properties: None,
    };
    let of_model = Component::new(Classification::MachineLearningModel, &name, version, Some(MODEL.into()));
    Component {
        purl: origin.and_then(|origin| purl(&origin.repository.parse().ok()?, Some(&origin.commit))),
        licenses: licenses(card),
        pedigree: Some(pedigree).filter(|_| !card.base_model.is_empty()),
        model_card: Some(of_card),
        properties: Some(Properties(told)),
        ..of_model
    }
}

/// A file and the tensors in it.
fn file_of(file: &FileRecord, tensors: &[&TensorRecord], algorithm: Algorithm) -> Component {
    let tensor = |tensor: &&TensorRecord| {
        let about =
            vec![property("dtype", &tensor.dtype.to_string()), property("shape", &format!("{:?}", tensor.shape))];
        let hash = Hash {
            alg: match algorithm {
                Algorithm::Sha256 => HashAlgorithm::SHA_256,
                Algorithm::Blake3 => HashAlgorithm::BLAKE3,
            },
            content: HashValue(hex(&tensor.digest)),
        };
        let of_tensor = component(Classification::Data, &tensor.name, None);
        let (hashes, properties) = (Some(Hashes(vec![hash])), Some(Properties(about)));
        Component { hashes, properties, ..of_tensor }
    };
    let tensors: Vec<Component> = tensors.iter().map(tensor).collect();
    let hash = Hash { alg: HashAlgorithm::SHA_256, content: HashValue(hex(&file.sha256)) };
    let of_file = component(Classification::File, &file.path, Some(format!("file:{}", file.path)));
    Component {
        hashes: Some(Hashes(vec![hash])),
        properties: Some(Properties(vec![property("bytes", &file.bytes.to_string())])),
        components: (!tensors.is_empty()).then_some(Components(tensors)),
        ..of_file
    }
}

/// What packed weights are stored as, and how many of each.
fn formats(fingerprint: &Fingerprint) -> BTreeMap<&str, usize> {
    let mut formats = BTreeMap::new();
    fingerprint.weights.iter().for_each(|weight| *formats.entry(weight.format.as_str()).or_default() += 1);
    formats
}

/// Those that SPDX lists by their identifiers, others by name.
fn licenses(card: &ModelCard) -> Option<Licenses> {
    let license = |said: &String| {
        let listed = spdx::identifiers::LICENSES.iter().find(|known| known.name.eq_ignore_ascii_case(said));
        LicenseChoice::License(match (listed, &card.license_name) {
            (Some(listed), _) => License::license_id(listed.name),
            (None, Some(name)) if said == "other" => License::named_license(name),
            (None, _) => License::named_license(said),
        })
    };
    (!card.license.is_empty()).then(|| Licenses(card.license.iter().map(license).collect()))
}

/// A package URL of the hub.
fn purl(id: &HubId, commit: Option<&str>) -> Option<cyclonedx_bom::external_models::uri::Purl> {
    let version = commit.map(|commit| format!("@{commit}")).unwrap_or_default();
    format!("pkg:huggingface/{}{version}", id.repo()).parse().ok()
}

fn component(kind: Classification, name: &str, bom_ref: Option<String>) -> Component {
    Component { version: None, ..Component::new(kind, name, "", bom_ref) }
}

fn property(name: &str, value: &str) -> Property {
    Property::new(format!("achilles-audit:{name}"), value)
}
