// A client that nobody here wrote: @grpc/grpc-js, with the .proto files loaded by @grpc/proto-loader.
'use strict';

const assert = require('node:assert/strict');
const {execFileSync, spawn} = require('node:child_process');
const fs = require('node:fs');
const {createRequire} = require('node:module');
const os = require('node:os');
const path = require('node:path');
const readline = require('node:readline');
const {after, before, test} = require('node:test');

const {RUNLOOP_BUILD_DIR: build, RUNLOOP_SOURCE_DIR: source, RUNLOOP_CLIENTS_DIR: clients} = process.env;
const installed = createRequire(path.join(clients, 'package.json'));
const grpc = installed('@grpc/grpc-js');
const protoLoader = installed('@grpc/proto-loader');

const DEADLINE_MS = 60_000;
const HOLD = 'runloop.test.v1.TestOperations/Hold';

const definitions = grpc.loadPackageDefinition(protoLoader.loadSync(
    ['runloop/v1/dispatcher.proto', 'runloop/v1/diagnostics.proto', 'runloop/test/v1/test_operations.proto',
     'runloop/test/v1/test_control.proto'],
    {
      includeDirs: ['proto', 'tests/proto', 'tests/integration/proto'].map(part => path.join(source, part)),
      keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true,
    }));

let directory, daemon, address, operations, control, dispatcher, diagnostics, commands;

function deadline(milliseconds = DEADLINE_MS) { return {deadline: Date.now() + milliseconds}; }

// Calls a unary method; resolves with the reply, rejects with the error.
function call(client, method, request, metadata = new grpc.Metadata(), options = deadline()) {
  return new Promise((resolve, reject) => client[method](
      request, metadata, options, (error, reply) => error ? reject(error) : resolve(reply)));
}

// The next status for which `condition` holds: each answer asks for the next.
async function awaitStatus(condition) {
  for (const end = Date.now() + DEADLINE_MS; Date.now() < end;) {
    const status = await call(diagnostics, 'GetStatus', {});
    if (condition(status)) return status;
  }
  assert.fail(`the status did not come: ${condition}`);
}

before(async () => {
  directory = fs.mkdtempSync(path.join(os.tmpdir(), 'runloop-'));
  address = `unix:${directory}/s`;
  daemon = spawn('setpriv', ['--pdeathsig', 'KILL', '--', path.join(build, 'bin/runloopd'), `--listen=${address}`,
    `--plugin=${path.join(build, 'lib/plugins/runloop_test_plugin.so')}`], {stdio: ['ignore', 'inherit', 'pipe']});
  const lines = readline.createInterface({input: daemon.stderr});
  await new Promise((resolve, reject) => {
    lines.on('line', line => {
      console.error(line);
      if (line.startsWith('listening')) resolve();
    });
    lines.on('close', () => reject(new Error('runloopd ended before it listened')));
  });
  const connect = Service => new Service(address, grpc.credentials.createInsecure());
  operations = connect(definitions.runloop.test.v1.TestOperations);
  control = connect(definitions.runloop.test.v1.TestControl);
  dispatcher = connect(definitions.runloop.v1.Dispatcher);
  diagnostics = connect(definitions.runloop.v1.Diagnostics);
  const fifo = path.join(directory, 'commands');
  execFileSync('mkfifo', [fifo]);
  await call(control, 'Steer', {fifo});
  commands = fs.openSync(fifo, 'w');
});

after(async () => {
  for (const client of [operations, control, dispatcher, diagnostics]) client?.close();
  if (commands !== undefined) fs.closeSync(commands);
  if (daemon) {
    const ended = new Promise(resolve => daemon.on('exit', (code, signal) => resolve(code ?? signal)));
    daemon.kill('SIGTERM');
    assert.equal(await ended, 0);
  }
  fs.rmSync(directory, {recursive: true, force: true});
});

test('a typed call runs on the runtime thread', async () => {
  const reply = await call(operations, 'Echo', {text: 'grüße', payload: Buffer.alloc(1000)});
  assert.deepEqual(reply, {text: 'grüße', payload_size: 1000, on_runtime_thread: true});
});

test('an unknown method is unimplemented, with the reason in the details', async () => {
  const NoSuchMethod = grpc.makeGenericClientConstructor({
    noSuchMethod: {
      path: '/runloop.test.v1.TestOperations/NoSuchMethod', requestStream: false, responseStream: false,
      requestSerialize: bytes => bytes, requestDeserialize: bytes => bytes,
      responseSerialize: bytes => bytes, responseDeserialize: bytes => bytes,
    },
  });
  const client = new NoSuchMethod(address, grpc.credentials.createInsecure());
  await assert.rejects(call(client, 'noSuchMethod', Buffer.alloc(0)), error => {
    assert.equal(error.code, grpc.status.UNIMPLEMENTED);
    const [details] = error.metadata.get('grpc-status-details-bin');
    assert.match(details.toString('latin1'), /google\.rpc\.ErrorInfo[^]*UNKNOWN_OPERATION[^]*runloop/);
    return true;
  });
  client.close();
});

test('a call whose deadline passes while it is queued never runs', async () => {
  const held = call(operations, 'Hold', {});
  await awaitStatus(status => status.thread.current_operation === HOLD);
  await assert.rejects(call(operations, 'Record', {producer: 1, index: 1}, new grpc.Metadata(), deadline(200)),
                       error => error.code === grpc.status.DEADLINE_EXCEEDED);
  await awaitStatus(({ledger}) => ledger.expired + ledger.cancelled === 1);
  fs.writeSync(commands, 'let-go\n');
  await held;
  assert.deepEqual((await call(control, 'GetRecord', {})).producers, []);
});

test('a session runs dispatches in order, and a plain call joins it by the metadata runloop-session', async () => {
  const stream = dispatcher.Session(new grpc.Metadata(), deadline());
  const responses = stream[Symbol.asyncIterator]();
  const next = async () => (await responses.next()).value;
  stream.write({hello: {versions: {min: 1, max: 1}, client_name: 'grpc-js'}});
  const {welcome} = await next();
  assert.equal(welcome.version, 1);
  const session = status => status.sessions.find(other => other.session_id === welcome.session_id);
  assert.equal(session(await call(diagnostics, 'GetStatus', {})).client_name, 'grpc-js');

  const metadata = new grpc.Metadata();
  metadata.set('runloop-session', welcome.session_id);
  const reply = await call(operations, 'Echo', {text: 'joined'}, metadata);
  assert.equal(reply.text, 'joined');
  await awaitStatus(status => session(status).finished === 1);

  const type = definitions.runloop.test.v1.TestOperations.service.Record;
  const dispatches = Array.from({length: 500}, (_, index) => ({
    invocation_id: index + 1,
    operation_name: 'runloop.test.v1.TestOperations/Record',
    request: type.requestSerialize({producer: 7, index}),
  }));
  stream.write({dispatches});
  for (let watermark = 0; watermark < 500;) watermark = (await next()).succeeded?.watermark ?? watermark;
  const record = await call(control, 'GetRecord', {});
  assert.deepEqual(record.indices.filter((_, place) => record.producers[place] === 7), dispatches.map((_, i) => i));

  stream.end();
  assert.equal((await responses.next()).done, true);

  const wrong = new grpc.Metadata();
  wrong.set('runloop-session', 'no-such-session');
  await assert.rejects(call(operations, 'Echo', {}, wrong), error => error.code === grpc.status.INVALID_ARGUMENT);
});
