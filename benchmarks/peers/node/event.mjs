// An event of the Node peers: 187 bytes of JSON, beside 149 bytes of protobuf.
const TEXT = 'abcdefghij klmno'.repeat(4).slice(0, 62)

export const event = (number, time) => ({
  type: 'text-delta',
  runId: 'run_01J9ZK7Q2V8X4M6N0P3R5T7W9Y',
  data: { number, messageId: 'msg_01J9ZK7Q2V8X4M6N0', text: TEXT, time },
})
