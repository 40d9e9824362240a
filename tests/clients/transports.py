"""Paho's client against a hub: both versions over every transport it is told of.

Arguments: host, then one "name:port:transport:tls" for each way in, then --ca FILE
and perhaps --cert FILE --key FILE. Prints a line for each that worked; ends with 1
at the first that did not.
"""

import argparse
import queue
import ssl
import sys

import paho.mqtt.client as mqtt

LIMIT = 30


def visit(arguments, name, port, transport, tls, version):
    messages, ready = queue.Queue(), queue.Queue()
    client_id = f"paho-{name}-{int(version)}"
    client = mqtt.Client(
        mqtt.CallbackAPIVersion.VERSION2, client_id, protocol=version, transport=transport
    )
    if transport == "websockets":
        client.ws_set_options(path="/mqtt")
    if tls:
        client.tls_set(
            arguments.ca, arguments.cert, arguments.key, tls_version=ssl.PROTOCOL_TLS_CLIENT
        )
    client.on_connect = lambda *a: ready.put(("connected", str(a[3])))
    client.on_subscribe = lambda *a: ready.put(("subscribed", str(a[3][0])))
    client.on_message = lambda _c, _u, message: messages.put(message.payload.decode())
    client.connect(arguments.host, port, keepalive=30)
    client.loop_start()
    assert ready.get(timeout=LIMIT) == ("connected", "Success")
    topic = f"mesh/app/{client_id}"
    client.subscribe(topic, qos=2)
    assert ready.get(timeout=LIMIT) == ("subscribed", "Granted QoS 2")
    for qos in (0, 1, 2):
        client.publish(topic, f"hällo {qos}", qos=qos).wait_for_publish(LIMIT)
        assert messages.get(timeout=LIMIT) == f"hällo {qos}"
    big = "x" * 300_000
    client.publish(topic, big, qos=1).wait_for_publish(LIMIT)
    assert messages.get(timeout=LIMIT) == big
    client.disconnect()
    client.loop_stop()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("ways", nargs="+")
    for name in ("--ca", "--cert", "--key"):
        parser.add_argument(name)
    arguments = parser.parse_args()
    for way in arguments.ways:
        name, port, transport, tls = way.split(":")
        for version in (mqtt.MQTTv311, mqtt.MQTTv5):
            visit(arguments, name, int(port), transport, tls == "tls", version)
            print(f"{name} {int(version)} ok", flush=True)


if __name__ == "__main__":
    sys.exit(main())
