ARG BASE
FROM ${BASE}
ENV container=docker
COPY emu-init emu-link /usr/local/sbin/
COPY emu-link.service /etc/systemd/system/
COPY device-setup /tmp/
RUN /tmp/device-setup && rm /tmp/device-setup
STOPSIGNAL SIGRTMIN+3
ENTRYPOINT ["/usr/local/sbin/emu-init"]
