// mqtt.js against a hub: both versions over every URL it is told of.
//
// Arguments: the CA's file, then URLs. Prints a line for each that worked; ends with 1 at the
// first that did not.
const fs = require('fs');
const mqtt = require('mqtt');

const LIMIT_MS = 30_000;

function visit(url, protocolVersion, ca) {
  return new Promise((resolve, reject) => {
    const give_up = setTimeout(() => reject(new Error('not in time')), LIMIT_MS);
    const clientId = `js-${new URL(url).protocol.slice(0, -1)}-${protocolVersion}`;
    const client = mqtt.connect(url, { protocolVersion, ca, clientId, reconnectPeriod: 0 });
    const topic = `mesh/app/${clientId}`;
    const texts = ['hällo 0', 'hällo 1', 'hällo 2', 'x'.repeat(300_000)];
    let next = 0;
    const publish = () => client.publish(topic, texts[next], { qos: Math.min(next, 2) });
    client.on('error', reject);
    client.on('close', () => reject(new Error('closed')));
    client.on('connect', () => {
      client.subscribe(topic, { qos: 2 }, (error) => (error ? reject(error) : publish()));
    });
    client.on('message', (_topic, payload) => {
      if (payload.toString() !== texts[next]) return reject(new Error(`got ${payload}`));
      next += 1;
      if (next < texts.length) return publish();
      client.removeAllListeners('close');
      client.end(false, {}, () => {
        clearTimeout(give_up);
        resolve();
      });
    });
  });
}

async function main() {
  const [ca, ...urls] = process.argv.slice(2);
  for (const url of urls) {
    for (const version of [4, 5]) {
      await visit(url, version, fs.readFileSync(ca));
      console.log(`${new URL(url).protocol} ${version} ok`);
    }
  }
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
