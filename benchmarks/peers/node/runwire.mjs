// The agent service's client as grpc-js makes it.
import grpc from '@grpc/grpc-js'
import loader from '@grpc/proto-loader'

export function client(address, protos) {
  const definition = loader.loadSync('runwire/agent/v1/agent_service.proto', {
    includeDirs: [protos], keepCase: true, longs: Number,
  })
  const { AgentService } = grpc.loadPackageDefinition(definition).runwire.agent.v1
  const options = { 'grpc.use_local_subchannel_pool': 1, 'grpc.max_receive_message_length': -1 }
  return new AgentService(address, grpc.credentials.createInsecure(), options)
}

export function startRun(service, load) {
  const fields = Object.fromEntries(Object.entries(load).map(([name, value]) => [name, { numberValue: value }]))
  const request = { agent_id: 'emitter', input: { structValue: { fields } } }
  return new Promise((resolve, reject) =>
    service.StartRun(request, (error, response) => error ? reject(error) : resolve(response.run.run_id)))
}

export const milliseconds = time => time.seconds * 1e3 + time.nanos / 1e6
