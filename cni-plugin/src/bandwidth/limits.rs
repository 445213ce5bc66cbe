//! The limits as said, and as the kernel takes them.

use std::time::Duration;

use cni_types::{Bandwidth, Error, Object, PluginConfig};
use nodekit::route::{Ticks, TokenBucket};

use crate::failure;

/// How long the last packet of a queue waits beyond a full bucket's time, as in the reference.
const LATENCY: Duration = Duration::from_millis(25);

const KEYS: [&str; 4] = ["ingressRate", "ingressBurst", "egressRate", "egressBurst"];

/// A rate below one byte a second is none.
const BITS: u64 = 8;

/// The reference's limit: a burst of fewer than 2^32 - 1 bytes.
const MOST_BURST: u64 = u32::MAX as u64;

/// What a pod may receive and send; at least one of them is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(super) incoming: Option<Limit>,
    pub(super) outgoing: Option<Limit>,
}

/// One direction's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limit {
    /// Bytes per second.
    pub(super) rate: u64,
    /// Bytes.
    pub(super) burst: u64,
}

/// The buckets of both directions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Buckets {
    pub(super) incoming: Option<TokenBucket>,
    pub(super) outgoing: Option<TokenBucket>,
}

impl Limits {
    /// The configuration's own limits, or else the runtime's; `None` where nothing is limited.
    ///
    /// # Errors
    /// Code 6 or 7 naming the key.
    pub(crate) fn read(config: &PluginConfig) -> Result<Option<Self>, Error> {
        let own = config.object();
        let said = if KEYS.iter().any(|key| own.get(key).is_some()) {
            own
        } else {
            let runtime = own.object("runtimeConfig")?;
            match runtime
                .map(|runtime| runtime.object("bandwidth"))
                .transpose()?
            {
                Some(Some(bandwidth)) => bandwidth,
                _ => return Ok(None),
            }
        };
        let bits = Bandwidth::from_object(&said)?;
        let [ingress_rate, ingress_burst, egress_rate, egress_burst] = KEYS;
        let limits = Self {
            incoming: limit(
                &said,
                (ingress_rate, bits.ingress_rate),
                (ingress_burst, bits.ingress_burst),
            )?,
            outgoing: limit(
                &said,
                (egress_rate, bits.egress_rate),
                (egress_burst, bits.egress_burst),
            )?,
        };
        let any = limits.incoming.is_some() || limits.outgoing.is_some();
        Ok(any.then_some(limits))
    }

    pub(super) fn buckets(&self) -> Result<Buckets, Error> {
        let ticks =
            Ticks::of_kernel().map_err(|error| Error::new(failure::KERNEL, error.to_string()))?;
        let bucket = |limit: Limit| TokenBucket::new(ticks, limit.rate, limit.burst, LATENCY);
        Ok(Buckets {
            incoming: self.incoming.map(bucket),
            outgoing: self.outgoing.map(bucket),
        })
    }
}

/// Both or neither, and a whole byte at least of each.
fn limit(
    said: &Object<'_>,
    (rate_key, rate): (&str, u64),
    (burst_key, burst): (&str, u64),
) -> Result<Option<Limit>, Error> {
    match (rate, burst) {
        (0, 0) => return Ok(None),
        (_, 0) => {
            let expected = format!("bits, 8 or more, as {rate_key} is {rate}");
            return Err(said.invalid(burst_key, &expected));
        }
        (0, _) => {
            let expected = format!("bits per second, 8 or more, as {burst_key} is {burst}");
            return Err(said.invalid(rate_key, &expected));
        }
        _ => {}
    }
    if rate < BITS {
        return Err(said.invalid(rate_key, "0 for no limit, or 8 bits per second or more"));
    }
    if burst < BITS || burst / BITS >= MOST_BURST {
        let most = MOST_BURST * BITS - 1;
        let expected = format!("0 for no limit, or 8 to {most} bits");
        return Err(said.invalid(burst_key, &expected));
    }
    Ok(Some(Limit {
        rate: rate / BITS,
        burst: burst / BITS,
    }))
}

#[cfg(test)]
mod tests {
    use cni_types::Code;
    use serde_json::{Value, json};

    use super::*;

    fn read(value: &Value) -> Result<Option<Limits>, Error> {
        Limits::read(&PluginConfig::decode(value.to_string().as_bytes()).unwrap())
    }

    const ONE: Option<Limit> = Some(Limit {
        rate: 1000,
        burst: 100,
    });

    #[test]
    fn the_configurations_own_limits_go_before_the_runtimes() {
        let runtime = json!({"bandwidth": {
            "IngressRate": 8000, "IngressBurst": 800, "EgressRate": 0, "EgressBurst": 0,
        }});
        let limits = read(&json!({"runtimeConfig": runtime})).unwrap().unwrap();
        assert_eq!((limits.incoming, limits.outgoing), (ONE, None));
        let own = json!({
            "egressRate": 8007, "egressBurst": 807, "runtimeConfig": runtime,
        });
        let limits = read(&own).unwrap().unwrap();
        assert_eq!((limits.incoming, limits.outgoing), (None, ONE));
        let none = json!({"ingressRate": 0, "runtimeConfig": runtime});
        assert_eq!(read(&none).unwrap(), None);
        for nothing in [
            json!({}),
            json!({"runtimeConfig": {}}),
            json!({"runtimeConfig": {"bandwidth": {}}}),
            json!({"runtimeConfig": {"bandwidth": null}}),
        ] {
            assert_eq!(read(&nothing).unwrap(), None, "{nothing}");
        }
    }

    #[test]
    fn a_burst_without_end_is_taken_as_containerd_sends_it() {
        let sent = json!({"runtimeConfig": {"bandwidth": {
            "EgressRate": 10_000_000, "EgressBurst": u32::MAX,
        }}});
        let limit = read(&sent).unwrap().unwrap().outgoing.unwrap();
        assert_eq!((limit.rate, limit.burst), (1_250_000, 536_870_911));
    }

    #[test]
    fn half_limits_and_those_out_of_range_are_refused() {
        for (value, key) in [
            (json!({"ingressRate": 1000}), "ingressBurst"),
            (json!({"egressBurst": 1000}), "egressRate"),
            (json!({"ingressRate": 7, "ingressBurst": 8}), "ingressRate"),
            (json!({"ingressRate": 8, "ingressBurst": 7}), "ingressBurst"),
            (
                json!({"egressRate": 8, "egressBurst": 34_359_738_360_u64}),
                "egressBurst",
            ),
            (
                json!({"runtimeConfig": {"bandwidth": {"ingressRate": 9}}}),
                "runtimeConfig.bandwidth.ingressBurst",
            ),
        ] {
            let error = read(&value).unwrap_err();
            assert_eq!(error.code, Code::INVALID_CONFIG);
            assert!(error.message.starts_with(key), "{error}");
        }
        assert_eq!(
            read(&json!({"egressRate": -1})).unwrap_err().code,
            Code::INVALID_CONFIG
        );
        assert_eq!(
            read(&json!({"egressRate": "1M"})).unwrap_err().code,
            Code::DECODE
        );
        let most = json!({"egressRate": 8, "egressBurst": 34_359_738_359_u64});
        assert!(read(&most).is_ok());
    }
}
