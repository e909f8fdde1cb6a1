// open_writer.cjs ADDRESS FILE: with @grpc/grpc-js, finds Mp4Writer in reflection, calls Open, and prints both as JSON.
'use strict';

const {createRequire} = require('node:module');
const path = require('node:path');

const {RUNLOOP_SOURCE_DIR: source, RUNLOOP_CLIENTS_DIR: clients} = process.env;
const installed = createRequire(path.join(clients, 'package.json'));
const grpc = installed('@grpc/grpc-js');
const definitions = grpc.loadPackageDefinition(installed('@grpc/proto-loader').loadSync(
    ['runloop/examples/media/v1/mp4_writer.proto', 'grpc/reflection/v1/reflection.proto'],
    {includeDirs: [...['examples/mp4_recorder/proto', 'proto'].map(part => path.join(source, part)), '/usr/share/grpc-proto'],
     keepCase: true, longs: String}));

const [address, file] = process.argv.slice(2);
const options = () => ({deadline: Date.now() + 60_000});
const insecure = grpc.credentials.createInsecure();

// The names of the services that the daemon lists.
function listServices() {
  const reflection = new definitions.grpc.reflection.v1.ServerReflection(address, insecure);
  const stream = reflection.ServerReflectionInfo(new grpc.Metadata(), options());
  return new Promise((resolve, reject) => {
    stream.on('error', reject);
    stream.on('data', response => {
      resolve(response.list_services_response.service.map(service => service.name));
      stream.end();
      reflection.close();
    });
    stream.write({list_services: '*'});
  });
}

function open() {
  const client = new definitions.runloop.examples.media.v1.Mp4Writer(address, insecure);
  const video = {width: 64, height: 48, frame_rate_numerator: 30, frame_rate_denominator: 1};
  return new Promise((resolve, reject) => client.Open(
      {file_name: file, video}, new grpc.Metadata(), options(), (error, reply) => {
        client.close();
        if (error) reject(error); else resolve(reply);
      }));
}

(async () => {
  console.log(JSON.stringify({services: await listServices(), ...await open()}));
})();
