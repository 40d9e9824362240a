//! What a client leaves behind when it dies.

use std::{
    borrow::Cow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::Session;
use crate::{
    api::Identity,
    codec::{connect::Will, publish::Publish},
    fanout::{Fanout, Turn, Verdict},
    lock::lock,
    properties::Properties,
    shared::Shared,
};

/// Publishes a will in the name of the client that left it.
pub(crate) fn publish(shared: &Arc<Shared>, session: &Session, by: &Arc<Identity>, will: &Will) {
    let message = Publish {
        qos: will.qos,
        retain: will.retain,
        packet_id: 0,
        topic: will.topic.as_bytes(),
        properties: Cow::Borrowed(&will.properties),
        payload: &will.payload,
        alias: None,
        expiry_s: will.expiry_s,
        user_properties: Properties::new(&will.properties).user().count(),
        raw: None,
        version5: true,
    };
    // A host that panics over a will must not keep the session from being put in order.
    let publish = AssertUnwindSafe(|| {
        let (mut fanout, mut turn) = (Fanout::new(session.uid, false), Turn::new(shared));
        let verdict = fanout.publish(&mut turn, by, &message);
        fanout.finish(turn);
        verdict
    });
    let Ok(verdict) = catch_unwind(publish) else {
        tracing::error!(client_id = %by.client_id, topic = %will.topic, "publishing a will panicked");
        return;
    };
    match verdict {
        Ok(Verdict::Accepted | Verdict::AcceptedWhen(_)) => {
            tracing::debug!(client_id = %by.client_id, topic = %will.topic, "will published");
        }
        Ok(Verdict::Refused(refusal)) => {
            tracing::info!(client_id = %by.client_id, topic = %will.topic, %refusal, "will refused");
        }
        Err(reason) => {
            tracing::info!(client_id = %by.client_id, topic = %will.topic, ?reason, "will refused");
        }
    }
}

/// Publishes a will that was waiting for its delay, if there is one.
pub(crate) fn publish_delayed(shared: &Arc<Shared>, session: &Session) {
    let delayed = lock(&session.queue).delayed_will.take();
    if let Some((will, by)) = delayed {
        publish(shared, session, &by, &will);
    }
}
