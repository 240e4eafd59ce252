// Node-RED without its editor. Logs go to stderr; stdout says when it is subscribed.
function log(message) {
    const text = message.msg && message.msg.stack ? message.msg.stack : message.msg;
    process.stderr.write(`${new Date(message.timestamp).toISOString()} ${text}\n`);
    // The subscription is sent right after this, and not logged.
    if (/^Connected to broker/.test(text)) setTimeout(() => console.log("ready"), 1000);
}

module.exports = {
    flowFile: "flows.json",
    uiHost: "127.0.0.1",
    uiPort: process.env.HTTP_PORT,
    httpAdminRoot: false,
    disableEditor: true,
    credentialSecret: false,
    telemetry: { enabled: false, updateNotification: false },
    logging: { stderr: { level: "info", metrics: false, audit: false, handler: () => log } },
};
