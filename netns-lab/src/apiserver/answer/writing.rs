//! POST, PUT, PATCH and DELETE.

use hyper::Response;
use serde_json::{Value, json};

use super::Asked;
use super::reading::{one, success};
use crate::apiserver::body::ResponseBody;
use crate::apiserver::object::text;
use crate::apiserver::patch::Patch;
use crate::apiserver::{Deleted, Deletion, Part, Refusal};

impl Asked {
    fn part(&self) -> Part {
        if self.target.status {
            Part::Status
        } else {
            Part::Main
        }
    }

    /// The media type without its parameters.
    fn media_type(&self) -> &str {
        self.content_type
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
    }

    fn json_body(&self) -> Result<Value, Refusal> {
        if !matches!(self.media_type(), "" | "application/json") {
            let message = format!(
                "Content-Type: {:?} is not understood; send application/json \
                 (`kubectl apply -f` and `kubectl create -f` do)",
                self.content_type
            );
            return Err(Refusal::new(415, "UnsupportedMediaType", message));
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| Refusal::bad_request(format!("the body is no JSON: {error}")))
    }

    /// The object in the body, placed where the URL says; 400 if it says otherwise itself.
    fn object(&self) -> Result<Value, Refusal> {
        let mut object = self.json_body()?;
        let Some(fields) = object.as_object_mut() else {
            return Err(Refusal::bad_request("the body must be a JSON object"));
        };
        let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
        let Some(metadata) = metadata.as_object_mut() else {
            return Err(Refusal::bad_request("metadata: must be a JSON object"));
        };
        for (field, ours) in [
            ("namespace", &self.target.namespace),
            ("name", &self.target.name),
        ] {
            let Some(ours) = ours else { continue };
            match metadata.get(field).and_then(Value::as_str) {
                None | Some("") => drop(metadata.insert(field.to_owned(), json!(ours))),
                Some(theirs) if theirs == ours => {}
                Some(theirs) => {
                    return Err(Refusal::bad_request(format!(
                        "metadata.{field}: {theirs:?} does not match {ours:?} of the URL"
                    )));
                }
            }
        }
        Ok(object)
    }

    pub(super) fn create(&self) -> Result<Response<ResponseBody>, Refusal> {
        let resource = self.target.resource;
        if resource.namespaced() && self.target.namespace.is_none() {
            let message = format!(
                "POST: {} live in a namespace; post to .../namespaces/NAME/{}",
                resource.plural(),
                resource.plural()
            );
            return Err(Refusal::new(405, "MethodNotAllowed", message));
        }
        let object = self.serving.store.create(resource, self.object()?)?;
        Ok(one(201, &object))
    }

    pub(super) fn replace(&self) -> Result<Response<ResponseBody>, Refusal> {
        let store = &self.serving.store;
        let object = store.update(self.target.resource, self.part(), self.object()?)?;
        Ok(one(200, &object))
    }

    pub(super) fn patch(&self) -> Result<Response<ResponseBody>, Refusal> {
        let patch = Patch::parse(self.media_type(), &self.body)?;
        let object = self.serving.store.modify(
            self.target.resource,
            self.target.namespace(),
            self.target.name.as_deref().unwrap_or_default(),
            self.part(),
            |object| patch.apply(object),
        )?;
        Ok(one(200, &object))
    }

    /// `metav1.DeleteOptions`, from the body or the query.
    fn deletion(&self) -> Result<Deletion, Refusal> {
        let options = if self.body.is_empty() {
            Value::Null
        } else {
            self.json_body()?
        };
        if options
            .get("dryRun")
            .and_then(Value::as_array)
            .is_some_and(|list| !list.is_empty())
        {
            return Err(Refusal::bad_request("dryRun: not supported; leave it out"));
        }
        let grace = options
            .get("gracePeriodSeconds")
            .filter(|grace| !grace.is_null());
        let grace = match grace {
            None => self.query.number("gracePeriodSeconds")?,
            Some(grace) => Some(grace.as_u64().ok_or_else(|| {
                let message = format!("gracePeriodSeconds: {grace} is no number of seconds");
                Refusal::bad_request(message)
            })?),
        };
        let version = text(&options, "/preconditions/resourceVersion");
        let version = Some(version).filter(|version| !version.is_empty());
        let version = version.map(|version| {
            version.parse().map_err(|_| {
                let message = format!("preconditions.resourceVersion: {version:?} is no number");
                Refusal::bad_request(message)
            })
        });
        let uid = text(&options, "/preconditions/uid");
        Ok(Deletion {
            grace,
            uid: Some(uid).filter(|uid| !uid.is_empty()).map(str::to_owned),
            version: version.transpose()?,
        })
    }

    pub(super) fn delete(&self) -> Result<Response<ResponseBody>, Refusal> {
        let resource = self.target.resource;
        let name = self.target.name.as_deref().unwrap_or_default();
        let deletion = self.deletion()?;
        match self
            .serving
            .store
            .delete(resource, self.target.namespace(), name, &deletion)?
        {
            Deleted::Terminating(object) => Ok(one(200, &object)),
            Deleted::Gone(object) => {
                let description = resource.description();
                let value = object.value();
                Ok(success(&json!({"name": name, "group": description.group,
                                   "kind": description.plural,
                                   "uid": text(&value, "/metadata/uid")})))
            }
        }
    }

    pub(super) fn delete_collection(&self) -> Result<Response<ResponseBody>, Refusal> {
        let (resource, store) = (self.target.resource, &self.serving.store);
        let deletion = self.deletion()?;
        let selection = self.selection()?;
        let found = store
            .page(resource, &selection, None, usize::MAX)
            .listing
            .objects;
        for object in &found {
            match store.delete(resource, object.namespace(), object.name(), &deletion) {
                // Somebody else was faster.
                Err(refusal) if refusal.code == 404 => {}
                result => drop(result?),
            }
        }
        Ok(success(&json!({"kind": resource.plural()})))
    }
}
