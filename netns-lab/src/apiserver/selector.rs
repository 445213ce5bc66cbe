//! Label and field selectors, as Kubernetes writes them in URLs.

use super::{Object, Refusal};

/// Which objects a list, a watch or a deletecollection means.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    /// Only this namespace.
    pub(crate) namespace: Option<String>,
    labels: Vec<LabelRequirement>,
    fields: Vec<FieldRequirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct LabelRequirement {
    key: String,
    test: LabelTest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum LabelTest {
    In(Vec<String>),
    /// Also holds where the label is absent.
    NotIn(Vec<String>),
    Exists,
    Absent,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldRequirement {
    path: String,
    value: String,
    equal: bool,
}

impl Selection {
    pub(crate) fn everything(namespace: Option<&str>) -> Self {
        Self {
            namespace: namespace.map(str::to_owned),
            ..Self::default()
        }
    }

    /// Reads `labelSelector` and `fieldSelector`; 400 for what they cannot say.
    pub(crate) fn parse(
        namespace: Option<&str>,
        labels: &str,
        fields: &str,
    ) -> Result<Self, Refusal> {
        Ok(Self {
            namespace: namespace.map(str::to_owned),
            labels: parse_labels(labels)?,
            fields: parse_fields(fields)?,
        })
    }

    /// Refuses fields that this resource does not offer.
    pub(crate) fn check_fields(&self, resource: super::Resource) -> Result<(), Refusal> {
        let known = resource.description().fields;
        let offered = |path: &str| {
            matches!(path, "metadata.name" | "metadata.namespace") || known.contains(&path)
        };
        match self
            .fields
            .iter()
            .find(|requirement| !offered(&requirement.path))
        {
            None => Ok(()),
            Some(requirement) => Err(Refusal::bad_request(format!(
                "fieldSelector: field label not supported: {}; {} offer metadata.name, \
                 metadata.namespace, {}",
                requirement.path,
                resource.plural(),
                known.join(", ")
            ))),
        }
    }

    pub(crate) fn covers_namespace(&self, object: &Object) -> bool {
        self.namespace
            .as_deref()
            .is_none_or(|namespace| namespace == object.namespace())
    }

    pub(crate) fn matches(&self, object: &Object) -> bool {
        self.covers_namespace(object)
            && self
                .labels
                .iter()
                .all(|requirement| requirement.holds(object))
            && self
                .fields
                .iter()
                .all(|requirement| requirement.holds(object))
    }

    /// Whether the selectors let everything through.
    pub(crate) fn is_open(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }
}

impl LabelRequirement {
    fn holds(&self, object: &Object) -> bool {
        let value = object.label(&self.key);
        let among = |values: &[String]| {
            value.is_some_and(|value| values.iter().any(|accepted| accepted == value))
        };
        match &self.test {
            LabelTest::In(values) => among(values),
            LabelTest::NotIn(values) => !among(values),
            LabelTest::Exists => value.is_some(),
            LabelTest::Absent => value.is_none(),
        }
    }
}

impl FieldRequirement {
    fn holds(&self, object: &Object) -> bool {
        (object.field(&self.path).unwrap_or_default() == self.value) == self.equal
    }
}

/// Splits at the commas that stand outside parentheses.
fn split_requirements(text: &str) -> Vec<&str> {
    let mut depth = 0_u32;
    let parts = text.split(|letter| {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        letter == ',' && depth == 0
    });
    parts
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect()
}

fn parse_labels(text: &str) -> Result<Vec<LabelRequirement>, Refusal> {
    split_requirements(text)
        .into_iter()
        .map(parse_label)
        .collect()
}

fn parse_label(text: &str) -> Result<LabelRequirement, Refusal> {
    let (key, test) = if let Some(key) = text.strip_prefix('!') {
        (key, LabelTest::Absent)
    } else if let Some((key, value)) = text.split_once("!=") {
        (key, LabelTest::NotIn(vec![checked_value(text, value)?]))
    } else if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        (key, LabelTest::In(vec![checked_value(text, value)?]))
    } else if text.contains('(') {
        parse_set(text)?
    } else {
        (text, LabelTest::Exists)
    };
    let key = key.trim();
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "-_./".contains(letter);
    if key.is_empty() || !key.chars().all(fits) {
        return Err(unreadable(text, &format!("{key:?} is no label key")));
    }
    Ok(LabelRequirement {
        key: key.to_owned(),
        test,
    })
}

fn parse_set(text: &str) -> Result<(&str, LabelTest), Refusal> {
    let malformed = || unreadable(text, "expected `key in (a,b)` or `key notin (a,b)`");
    let (head, values) = text.split_once('(').ok_or_else(malformed)?;
    let values = values.trim_end().strip_suffix(')').ok_or_else(malformed)?;
    let values: Vec<String> = values
        .split(',')
        .map(|value| checked_value(text, value))
        .collect::<Result<_, Refusal>>()?;
    let (key, operator) = head
        .trim_end()
        .rsplit_once(char::is_whitespace)
        .ok_or_else(malformed)?;
    match operator {
        "in" => Ok((key, LabelTest::In(values))),
        "notin" => Ok((key, LabelTest::NotIn(values))),
        _ => Err(malformed()),
    }
}

fn checked_value(requirement: &str, value: &str) -> Result<String, Refusal> {
    let value = value.trim();
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    if value.len() > 63 || !value.chars().all(fits) {
        let why = format!("{value:?} is no label value");
        return Err(unreadable(requirement, &why));
    }
    Ok(value.to_owned())
}

fn unreadable(requirement: &str, why: &str) -> Refusal {
    Refusal::bad_request(format!(
        "labelSelector: unable to parse {requirement:?}: {why}"
    ))
}

fn parse_fields(text: &str) -> Result<Vec<FieldRequirement>, Refusal> {
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (path, value, equal) = if let Some((path, value)) = part.split_once("!=") {
                (path, value, false)
            } else if let Some((path, value)) =
                part.split_once("==").or_else(|| part.split_once('='))
            {
                (path, value, true)
            } else {
                return Err(Refusal::bad_request(format!(
                    "fieldSelector: unable to parse {part:?}: expected path=value or path!=value"
                )));
            };
            let (path, value) = (path.trim().to_owned(), value.trim().to_owned());
            Ok(FieldRequirement { path, value, equal })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::apiserver::Resource;

    fn pod() -> Object {
        let value = json!({
            "metadata": {"name": "redis-0", "namespace": "shop",
                         "labels": {"app": "redis", "example.org/tier": "back", "empty": ""}},
            "spec": {"nodeName": "worker-1"},
            "status": {"phase": "Running"},
        });
        Object::new(Resource::Pod, 1, &value)
    }

    fn selects(labels: &str, fields: &str) -> bool {
        Selection::parse(None, labels, fields)
            .unwrap()
            .matches(&pod())
    }

    #[test]
    fn label_selectors_hold_as_kubernetes_defines_them() {
        for held in [
            "",
            "app=redis",
            "app==redis",
            "app = redis",
            "app!=mysql",
            "absent!=x",
            "app",
            "!absent",
            "app in (redis, mysql)",
            "app notin (mysql,pg),app",
            "absent notin (x)",
            "example.org/tier=back,app=redis",
            "empty=",
            "empty in (,a)",
        ] {
            assert!(selects(held, ""), "{held:?}");
        }
        for failed in [
            "app=mysql",
            "app!=redis",
            "absent",
            "absent=",
            "!app",
            "app in (mysql)",
            "app notin (redis)",
            "app=redis,absent",
        ] {
            assert!(!selects(failed, ""), "{failed:?}");
        }
    }

    #[test]
    fn field_selectors_compare_what_the_resource_offers() {
        assert!(selects(
            "",
            "metadata.name=redis-0,metadata.namespace==shop"
        ));
        assert!(selects("", "spec.nodeName=worker-1,status.phase!=Failed"));
        assert!(!selects("", "spec.nodeName!=worker-1"));
        assert!(selects("", "spec.nodeName!="));
    }

    #[test]
    fn unreadable_selectors_are_refused_with_the_place() {
        for bad in [
            "app in redis)",
            "a b",
            "app in (x",
            "app within (x)",
            "=x",
            "app=r s",
        ] {
            let refusal = Selection::parse(None, bad, "").unwrap_err();
            assert_eq!(refusal.code, 400, "{bad:?}");
            assert!(refusal.message.contains("labelSelector"), "{refusal}");
        }
        assert_eq!(
            Selection::parse(None, "", "nodeName").unwrap_err().code,
            400
        );
        let selection = Selection::parse(None, "", "spec.secret=1").unwrap();
        let refusal = selection.check_fields(Resource::Pod).unwrap_err();
        assert!(refusal.message.contains("spec.nodeName"), "{refusal}");
    }

    #[test]
    fn a_namespace_selects_only_itself() {
        assert!(Selection::everything(Some("shop")).matches(&pod()));
        assert!(!Selection::everything(Some("sho")).matches(&pod()));
    }
}
