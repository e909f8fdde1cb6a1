"""Notifications as any gRPC client gets them: by a call that streams, and by runloopctl watch."""

import json
import threading
import unittest

import grpc
import harness
from runloop.test.v1 import test_topics_pb2, test_topics_pb2_grpc
from runloop.v1 import dispatcher_pb2_grpc, notifications_pb2, notifications_pb2_grpc, session_pb2

EVERY, NEWEST = 'runloop.test.v1.TestTopics/Every', 'runloop.test.v1.TestTopics/Newest'


class NotificationsTest(harness.TestCase):

    def setUp(self):
        super().setUp()
        self.daemon = self.start_daemon()

    def channel(self, **options):
        channel = grpc.insecure_channel('unix:' + self.socket, options=[
            ('grpc.use_local_subchannel_pool', 1), *options.items()])
        self.addCleanup(channel.close)
        return channel

    def subscribe(self, channel, *topics, **options):
        """Returns once the subscriptions stand."""
        call = notifications_pb2_grpc.NotificationsStub(channel).Subscribe(
            notifications_pb2.SubscribeRequest(topics=topics), timeout=harness.DEADLINE, **options)
        call.initial_metadata()
        return call

    def publish(self, channel, topic, first, count=1, **fields):
        test_topics_pb2_grpc.TestTopicsStub(channel).Publish(
            test_topics_pb2.PublishRequest(topic=topic, first=first, count=count, **fields),
            timeout=harness.DEADLINE)

    def item(self, notification):
        item = test_topics_pb2.Item()
        self.assertTrue(notification.message.Unpack(item))
        return item.index

    def test_topics_are_listed_and_streamed_in_order(self):
        channel = self.channel()
        topics = notifications_pb2_grpc.NotificationsStub(channel).ListTopics(notifications_pb2.ListTopicsRequest())
        self.assertEqual([(topic.name, topic.message_type, topic.latest) for topic in topics.topics],
                         [(EVERY, 'runloop.test.v1.Item', False), (NEWEST, 'runloop.test.v1.Item', True)])
        stream = self.subscribe(channel, EVERY, NEWEST, EVERY)
        self.publish(self.channel(), EVERY, 1, 3)
        self.publish(self.channel(), NEWEST, 4)
        got = [next(stream) for _ in range(4)]
        self.assertEqual([self.item(notification) for notification in got], [1, 2, 3, 4])
        self.assertEqual([notification.sequence for notification in got], [1, 2, 3, 1])
        self.assertEqual([notification.topic for notification in got], [EVERY] * 3 + [NEWEST])
        status = self.daemon.status()
        self.assertEqual([(topic.name, topic.published, topic.delivered) for topic in status.topics],
                         [(EVERY, 3, 3), (NEWEST, 1, 1)])

    def test_what_is_published_to_a_session_goes_to_its_calls_alone(self):
        channel, other = self.channel(), self.channel()
        its, others = self.subscribe(channel, EVERY), self.subscribe(other, EVERY)
        self.publish(channel, EVERY, 1, to_session=True)
        self.publish(channel, EVERY, 2)
        self.assertEqual([self.item(next(its)), self.item(next(its))], [1, 2])
        self.assertEqual(self.item(next(others)), 2)

    def test_what_cannot_be_subscribed_to_is_refused(self):
        channel = self.channel()
        stub = notifications_pb2_grpc.NotificationsStub(channel)

        def subscribe(*topics):
            return lambda: next(stub.Subscribe(notifications_pb2.SubscribeRequest(topics=topics)))

        self.assert_fails(subscribe('a.B/C'), grpc.StatusCode.NOT_FOUND, 'UNKNOWN_TOPIC')
        self.assert_fails(subscribe(), grpc.StatusCode.INVALID_ARGUMENT, 'INVALID_REQUEST')
        streams = [self.subscribe(channel, EVERY) for _ in range(256)]
        self.assert_fails(subscribe(EVERY), grpc.StatusCode.RESOURCE_EXHAUSTED, 'SUBSCRIPTIONS_FULL')
        for stream in streams:
            stream.cancel()
        self.daemon.await_status(lambda status: status.topics[0].subscriptions == 0, 'no subscriptions')
        self.subscribe(channel, EVERY)

    def test_who_does_not_read_is_dropped_and_counted_and_holds_nobody_up(self):
        slow = self.subscribe(self.channel(), EVERY)
        quick_channel = self.channel()
        quick = self.subscribe(quick_channel, EVERY)
        read_last = threading.Event()

        def read():
            for notification in quick:
                if self.item(notification) == 40_000:
                    return read_last.set()

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        publisher = self.channel()
        for first in range(0, 40_000, 4000):  # much more than the kernel and gRPC hold for who does not read
            self.publish(publisher, EVERY, first, 4000, text='x' * 1000)
        self.daemon.await_status(lambda status: status.topics[0].dropped > 0, 'something dropped')
        self.publish(publisher, EVERY, 40_000)
        self.assertTrue(read_last.wait(harness.DEADLINE))  # while the slow one has read nothing
        total, index = 0, 0
        while index != 40_000:
            notification = next(slow)
            index = self.item(notification)
            total += 1 + notification.dropped
            self.assertEqual(notification.sequence, total)
        self.assertEqual(total, 40_001)
        reader.join()

    def test_a_drain_ends_streams_with_unavailable(self):
        stream = self.subscribe(self.channel(), EVERY)
        self.daemon.signal(15)
        self.assert_fails(lambda: next(stream), grpc.StatusCode.UNAVAILABLE, 'DRAINING')
        self.assertEqual(self.daemon.wait(), 0)

    def test_what_waits_at_the_end_of_a_drain_is_streamed_before_the_end(self):
        stream = self.subscribe(self.channel(), EVERY)
        self.daemon.hold()
        publisher = threading.Thread(target=self.publish, args=(self.channel(), EVERY, 0, 200), kwargs={'text': 'x' * 3000})
        publisher.start()
        self.daemon.await_status(lambda status: status.ledger.queued == 1, 'it is queued')
        self.daemon.signal(15)
        self.daemon.await_status(lambda status: status.draining, 'the drain has begun')
        self.daemon.let_go()
        self.assertEqual([self.item(next(stream)) for _ in range(200)], list(range(200)))
        self.assert_fails(lambda: next(stream), grpc.StatusCode.UNAVAILABLE, 'DRAINING')
        self.assertEqual(self.daemon.wait(), 0)
        publisher.join()

    def test_a_hostile_session_gets_results_and_loses_nothing_of_its_own(self):
        """Thousands of subscriptions, most of them refused, and then a dispatch."""
        stop = threading.Event()
        requests = [session_pb2.SessionRequest(
            hello=session_pb2.Hello(versions=session_pb2.VersionRange(min=1, max=1)))]
        number = 0
        for _ in range(20):
            request = session_pb2.SessionRequest()
            requests.append(request)
            for _ in range(500):
                number += 1
                request.subscribes.add(subscription_id=number, topic_name='a.B/C' if number % 2 else EVERY)
        publish = test_topics_pb2.PublishRequest(topic=EVERY, first=9, count=1)
        requests.append(session_pb2.SessionRequest(dispatches=[session_pb2.Dispatch(
            invocation_id=1, operation_name='runloop.test.v1.TestTopics/Publish',
            request=publish.SerializeToString(), reply_wanted=True)]))

        def send():
            yield from requests
            stop.wait(harness.DEADLINE)

        self.addCleanup(stop.set)
        results, notifications, outcomes = {}, [], []
        for response in dispatcher_pb2_grpc.DispatcherStub(self.channel()).Session(send(), timeout=harness.DEADLINE):
            for result in response.subscribe_results:
                results[result.subscription_id] = result.status
            notifications += response.notifications
            outcomes += response.outcomes
            if len(notifications) == 256 and outcomes:
                break
        self.assertEqual(len(results), number)
        good = [id for id, status in results.items() if status.code == 0]
        self.assertEqual(len(good), 256)
        self.assertEqual(sorted(notification.subscription_id for notification in notifications), sorted(good))
        self.assertEqual({harness.info_of(status).reason for status in results.values() if status.code},
                         {'UNKNOWN_TOPIC', 'SUBSCRIPTIONS_FULL'})
        self.assertTrue(outcomes[0].HasField('reply'))

    def test_an_id_that_does_not_rise_is_a_violation(self):
        def send():
            yield session_pb2.SessionRequest(
                hello=session_pb2.Hello(versions=session_pb2.VersionRange(min=1, max=1)))
            yield session_pb2.SessionRequest(subscribes=[
                session_pb2.Subscribe(subscription_id=2, topic_id=1),
                session_pb2.Subscribe(subscription_id=2, topic_id=1)])

        self.assert_fails(lambda: list(dispatcher_pb2_grpc.DispatcherStub(self.channel()).Session(send())),
                          grpc.StatusCode.INVALID_ARGUMENT, 'PROTOCOL_VIOLATION')

    def test_runloopctl_watches_and_lists(self):
        listed = self.ctl('watch')
        self.assertEqual(listed.code, 0, listed.stderr)
        self.assertRegex(listed.stdout, f'{NEWEST} +runloop.test.v1.Item +the newest')
        watch = self.start([harness.program('runloopctl'), '--address', self.socket, '--json', 'watch', EVERY])
        self.daemon.await_status(lambda status: status.topics[0].subscriptions == 1, 'a subscription')
        self.publish(self.channel(), EVERY, 7, text='seven')
        watch.await_line('seven', stream='stdout')
        shown = json.loads(watch.stdout.splitlines()[0])
        self.assertEqual(shown['topic'], EVERY)
        self.assertEqual(shown['message'],
                         {'@type': 'type.googleapis.com/runloop.test.v1.Item', 'index': '7', 'text': 'seven'})
        watch.signal(2)
        status = self.ctl('status')
        self.assertRegex(status.stdout, f'topics +{EVERY}: .* 1 published')
        unknown = self.ctl('watch', 'a.B/C')
        self.assertEqual(unknown.code, 1)
        self.assert_one_line(unknown.stderr, 'no topic')


if __name__ == '__main__':
    unittest.main()
