// open_writer.cjs ADDRESS FILE: calls Mp4Writer/Open with @grpc/grpc-js and prints the reply as JSON.
'use strict';

const {createRequire} = require('node:module');
const path = require('node:path');

const {RUNLOOP_SOURCE_DIR: source, RUNLOOP_CLIENTS_DIR: clients} = process.env;
const installed = createRequire(path.join(clients, 'package.json'));
const grpc = installed('@grpc/grpc-js');
const definitions = grpc.loadPackageDefinition(installed('@grpc/proto-loader').loadSync(
    'runloop/examples/media/v1/mp4_writer.proto',
    {includeDirs: [path.join(source, 'examples/mp4_recorder/proto')], keepCase: true, longs: String}));

const [address, file] = process.argv.slice(2);
const client = new definitions.runloop.examples.media.v1.Mp4Writer(address, grpc.credentials.createInsecure());
client.Open(
    {file_name: file, video: {width: 64, height: 48, frame_rate_numerator: 30, frame_rate_denominator: 1}},
    new grpc.Metadata(), {deadline: Date.now() + 60_000}, (error, reply) => {
      if (error) throw error;
      console.log(JSON.stringify(reply));
      client.close();
    });
