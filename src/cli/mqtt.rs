//! Announcing over MQTT 5, for a machine that reaches the broker and not the HTTP interface.

use super::announce::Request;
use super::password::Login;
use super::{Exit, Failure, HubArgs, trust};
use crate::http::api::Announcement;
use rumqttc::Transport;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason, PublishProperties, SubscribeReasonCode};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions};
use std::time::Duration;

/// Publishes an announcement and waits for its outcome on a response topic.
pub(super) fn announce(
    hub: &HubArgs,
    request: &Request<'_>,
    limit: Duration,
) -> Result<Announcement, Failure> {
    let login = hub.login()?;
    let url = hub.hub.as_str();
    let (usual, transport) = match url.split_once("://") {
        Some(("mqtts", _)) => ("8883", trust::for_mqtts(hub.ca.as_deref())?),
        _ => ("1883", Transport::Tcp),
    };
    let address = url.split_once("://").map_or(url, |(_, address)| address).trim_end_matches('/');
    // The colons of a bare IPv6 address are no port.
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (address, usual),
    };
    let port: u16 =
        port.parse().map_err(|_| Failure::usage(format!("{url}: the port is not a number")))?;
    let payload = serde_json::to_vec(request).map_err(|e| Failure::fault(e.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::fault(format!("could not start: {e}")))?;
    let late = || Failure {
        exit: Exit::Deadline,
        message: format!("the hub at {url} did not answer in time"),
    };
    runtime.block_on(async {
        let mut options = MqttOptions::new("", host.trim_matches(['[', ']']), port);
        options.set_transport(transport);
        let ask = Box::pin(ask(url, options, login, payload));
        tokio::time::timeout(limit, ask).await.map_err(|_| late())?
    })
}

async fn ask(
    url: &str,
    mut options: MqttOptions,
    login: Option<Login>,
    payload: Vec<u8>,
) -> Result<Announcement, Failure> {
    let id = uuid::Uuid::now_v7().to_string();
    options.set_client_id(format!("meshfs-announce-{id}"));
    options.set_keep_alive(Duration::from_secs(10));
    // Where every user may be answered.
    let mut reply = format!("mesh/app/replies/{id}");
    if let Some(Login { user, password }) = login {
        reply = format!("mesh/app/replies/{user}/{id}");
        options.set_credentials(user, password);
    }
    let (client, mut events) = AsyncClient::new(options, 8);
    let gone = |error: &dyn std::fmt::Display| Failure {
        exit: Exit::Unreachable,
        message: format!("the hub at {url} cannot be reached: {error}"),
    };
    let refused = |what: &str, why: &dyn std::fmt::Debug| {
        Failure::fault(format!("the hub at {url} refused {what}: {why:?}"))
    };
    client.subscribe(&reply, QoS::AtLeastOnce).await.map_err(|e| gone(&e))?;
    let mut payload = Some(payload);
    loop {
        let packet = next(&mut events).await.map_err(|error| match error {
            ConnectionError::ConnectionRefused(why) => refused("the login", &why),
            error => gone(&error),
        })?;
        match packet {
            Packet::SubAck(ack) => {
                if let Some(why) = ack.return_codes.iter().find(|code| !is_granted(code)) {
                    return Err(refused("to answer", why));
                }
                let Some(payload) = payload.take() else { continue };
                let properties = PublishProperties {
                    response_topic: Some(reply.clone()),
                    correlation_data: Some(id.clone().into()),
                    ..PublishProperties::default()
                };
                let topic = "mesh/announce";
                let qos = QoS::AtLeastOnce;
                client
                    .publish_with_properties(topic, qos, false, payload, properties)
                    .await
                    .map_err(|e| gone(&e))?;
            }
            // A contract broken is answered in more words.
            Packet::PubAck(ack) if ack.reason == PubAckReason::NotAuthorized => {
                return Err(refused("the announcement", &ack.reason));
            }
            Packet::Publish(answer) if answer.topic == reply.as_bytes() => {
                return outcome(&answer.payload);
            }
            _ => {}
        }
    }
}

fn is_granted(code: &SubscribeReasonCode) -> bool {
    matches!(code, SubscribeReasonCode::Success(_))
}

/// An outcome, or what a refused announcement is answered with.
fn outcome(answer: &[u8]) -> Result<Announcement, Failure> {
    serde_json::from_slice(answer).map_err(|error| {
        let refused = serde_json::from_slice::<serde_json::Value>(answer).ok();
        let why = refused.as_ref().and_then(|refused| refused.get("error")?.as_str());
        Failure::fault(why.map_or_else(
            || format!("the hub's answer is not understood: {error}"),
            ToOwned::to_owned,
        ))
    })
}

async fn next(events: &mut EventLoop) -> Result<Packet, ConnectionError> {
    loop {
        if let Event::Incoming(packet) = events.poll().await? {
            return Ok(packet);
        }
    }
}
