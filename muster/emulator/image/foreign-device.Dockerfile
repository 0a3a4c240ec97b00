ARG BASE
ARG OWN
FROM ${OWN} AS own
COPY foreign-setup /tmp/
RUN /tmp/foreign-setup collect /own
FROM ${BASE}
ARG ARCHITECTURE
ENV container=docker
COPY foreign-setup /tmp/
RUN /tmp/foreign-setup divert
COPY --from=own /own/ /
COPY emu-init emu-link /usr/local/sbin/
COPY emu-link.service /etc/systemd/system/
COPY foreign-services.conf /etc/systemd/system/service.d/10-emulation.conf
COPY device-setup /tmp/
RUN /tmp/device-setup && /tmp/foreign-setup finish ${ARCHITECTURE} && rm /tmp/*-setup
STOPSIGNAL SIGRTMIN+3
ENTRYPOINT ["/usr/local/sbin/emu-init"]
